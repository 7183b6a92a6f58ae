output "dto_cluster" {
  description = "The cluster's record: what `dto cluster setup --from-terraform` and `dto cluster up` read."
  value       = module.cluster.dto_cluster
}

output "cluster_name" {
  description = "Name of the cluster."
  value       = module.cluster.cluster_name
}

output "cluster_region" {
  description = "AWS region of the cluster."
  value       = module.cluster.cluster_region
}

output "total_gpus" {
  description = "GPUs of the nodes that the cluster starts with."
  value       = module.cluster.total_gpus
}

output "gpus_per_instance" {
  description = "GPUs of one node, as AWS says of its type."
  value       = module.cluster.gpus_per_instance
}

output "instance_ids" {
  description = "Instances that Terraform itself holds: the head. The nodes come and go in the scaling group."
  value       = module.cluster.instance_ids
}

output "instance_details" {
  description = "The head's instance."
  value       = module.cluster.instance_details
}

output "master_node" {
  description = "The head: name and addresses."
  value       = module.cluster.master_node
}

output "worker_nodes" {
  description = "What starts the nodes: their scaling group, launch template and types, and how many there are at first and at most."
  value       = module.cluster.worker_nodes
}

output "vpc_id" {
  description = "The cluster's network."
  value       = module.cluster.vpc_id
}

output "public_subnet_id" {
  description = "The head's subnet."
  value       = module.cluster.public_subnet_id
}

output "private_subnet_id" {
  description = "The nodes' subnet."
  value       = module.cluster.private_subnet_id
}

output "security_group_id" {
  description = "Security group of all hosts of the cluster."
  value       = module.cluster.security_group_id
}

output "placement_group_name" {
  description = "Placement group of the nodes; null without one."
  value       = module.cluster.placement_group_name
}

output "ssh_key_name" {
  description = "EC2 key pair of the hosts."
  value       = module.cluster.ssh_key_name
}

output "use_secrets_manager" {
  description = "Whether a secret is kept in AWS Secrets Manager."
  value       = module.cluster.use_secrets_manager
}

output "secret_name" {
  description = "Name of that secret; null without one. Its value is nowhere in Terraform."
  value       = module.cluster.secret_name
}

output "cloudwatch_log_group" {
  description = "Log group of the network's connections; null without enable_flow_logs."
  value       = module.cluster.cloudwatch_log_group
}

output "iam_instance_profile_arn" {
  description = "Instance profile of the nodes."
  value       = module.cluster.iam_instance_profile_arn
}

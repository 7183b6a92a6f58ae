output "dto_cluster" {
  description = "The cluster's record: what `dto cluster setup --from-terraform` and `dto cluster up` read."
  value       = local.record
  # nothing is ready for Ansible before the head's address and the shared filesystem answer
  depends_on = [aws_efs_mount_target.this, aws_vpc_security_group_ingress_rule.ssh]
}

output "cluster_name" {
  description = "Name of the cluster."
  value       = var.cluster_name
}

output "cluster_region" {
  description = "AWS region of the cluster."
  value       = var.region
}

output "total_gpus" {
  description = "GPUs of the nodes that the cluster starts with."
  value       = var.instance_count * local.gpus_per_node
}

output "gpus_per_instance" {
  description = "GPUs of one node, as AWS says of its type."
  value       = local.gpus_per_node
}

output "instance_ids" {
  description = "Instances that Terraform itself holds: the head. The nodes come and go in the scaling group."
  value       = [aws_instance.head.id]
}

output "instance_details" {
  description = "The head's instance."
  value = { (local.head_name) = {
    id         = aws_instance.head.id
    type       = var.head_instance_type
    private_ip = aws_instance.head.private_ip
    public_ip  = aws_eip.head.public_ip
    zone       = terraform_data.zone.output
  } }
}

output "master_node" {
  description = "The head: name and addresses."
  value = {
    name       = local.head_name
    private_ip = aws_instance.head.private_ip
    public_ip  = aws_eip.head.public_ip
  }
}

output "worker_nodes" {
  description = "What starts the nodes: their scaling group, launch template and types, and how many there are at first and at most."
  value = {
    scaling_group   = aws_autoscaling_group.nodes.name
    launch_template = aws_launch_template.node.id
    instance_types  = local.node_types
    capacity_type   = var.capacity_type
    efa_cards       = local.efa_cards
    count           = var.instance_count
    max_count       = local.max_count
  }
}

output "vpc_id" {
  description = "The cluster's network."
  value       = local.vpc_id
}

output "public_subnet_id" {
  description = "The head's subnet."
  value       = local.public_subnet
}

output "private_subnet_id" {
  description = "The nodes' subnet."
  value       = local.private_subnet
}

output "security_group_id" {
  description = "Security group of all hosts of the cluster."
  value       = aws_security_group.cluster.id
}

output "placement_group_name" {
  description = "Placement group of the nodes; null without one."
  value       = one([for group in aws_placement_group.this : group.name])
}

output "ssh_key_name" {
  description = "EC2 key pair of the hosts."
  value       = local.key_name
}

output "use_secrets_manager" {
  description = "Whether a secret is kept in AWS Secrets Manager."
  value       = var.use_secrets_manager
}

output "secret_name" {
  description = "Name of that secret; null without one. Its value is nowhere in Terraform."
  value       = one([for secret in aws_secretsmanager_secret.this : secret.name])
}

output "cloudwatch_log_group" {
  description = "Log group of the network's connections; null without enable_flow_logs."
  value       = one([for group in aws_cloudwatch_log_group.flow : group.name])
}

output "iam_instance_profile_arn" {
  description = "Instance profile of the nodes."
  value       = aws_iam_instance_profile.host["node"].arn
}

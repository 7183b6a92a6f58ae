output "dto_cluster" {
  description = "The cluster's record, which `dto cluster setup --from-terraform` reads."
  value       = module.cluster.dto_cluster
}

output "master_public_ip" {
  description = "Where you reach the head over ssh."
  value       = module.cluster.master_public_ip
}

output "worker_public_ips" {
  description = "Public addresses of the nodes; empty where they have none."
  value       = module.cluster.worker_public_ips
}

output "cluster_name" {
  description = "Name of the cluster."
  value       = module.cluster.cluster_name
}

output "cluster_region" {
  description = "Region of the project."
  value       = module.cluster.cluster_region
}

output "total_gpus" {
  description = "GPUs of all nodes together."
  value       = module.cluster.total_gpus
}

output "gpus_per_instance" {
  description = "GPUs of one node."
  value       = module.cluster.gpus_per_instance
}

output "instance_ids" {
  description = "Ids of the head and the nodes, the head first."
  value       = module.cluster.instance_ids
}

output "instance_details" {
  description = "Name, address, id and type of every machine, the head first."
  value       = module.cluster.instance_details
}

output "master_node" {
  description = "The head."
  value       = module.cluster.master_node
}

output "worker_nodes" {
  description = "The nodes, as in the record."
  value       = module.cluster.worker_nodes
}

output "vpc_id" {
  description = "The network."
  value       = module.cluster.vpc_id
}

output "private_subnet_id" {
  description = "The subnet that all machines are in."
  value       = module.cluster.private_subnet_id
}

output "security_group_id" {
  description = "The security group of all machines, which may talk to each other."
  value       = module.cluster.security_group_id
}

output "gpu_cluster_id" {
  description = "The GPU cluster that joins the nodes by InfiniBand; null without one."
  value       = module.cluster.gpu_cluster_id
}

output "shared_storage_id" {
  description = "The shared filesystem."
  value       = module.cluster.shared_storage_id
}

output "bucket_name" {
  description = "The bucket; null without one."
  value       = module.cluster.bucket_name
}

output "service_account_id" {
  description = "The service account of the nodes; null without one."
  value       = module.cluster.service_account_id
}

output "dto_cluster" {
  description = "The cluster's record, which `dto cluster setup --from-terraform` reads."
  value       = local.record
}

output "master_public_ip" {
  description = "Where you reach the head over ssh."
  value       = local.head_public
}

output "worker_public_ips" {
  description = "Public addresses of the nodes; empty where they have none."
  value       = [for node in local.nodes : node.public_address if node.public_address != null]
}

output "cluster_name" {
  description = "Name of the cluster."
  value       = var.cluster_name
}

output "cluster_region" {
  description = "Region of the project."
  value       = local.region
}

output "total_gpus" {
  description = "GPUs of all nodes together."
  value       = local.gpus * var.instance_count
}

output "gpus_per_instance" {
  description = "GPUs of one node."
  value       = local.gpus
}

output "instance_ids" {
  description = "Ids of the head and the nodes, the head first."
  value       = concat([nebius_compute_v1_instance.head.id], local.nodes[*].instance_id)
}

output "instance_details" {
  description = "Name, address, id and type of every machine, the head first."
  value = concat([local.master], [for node in local.nodes : {
    name           = node.name
    address        = node.address
    public_address = node.public_address
    instance_id    = node.instance_id
    instance_type  = node.instance_type
  }])
}

output "master_node" {
  description = "The head."
  value       = local.master
}

output "worker_nodes" {
  description = "The nodes, as in the record."
  value       = local.nodes
}

output "vpc_id" {
  description = "The network."
  value       = local.network_id
}

output "private_subnet_id" {
  description = "The subnet that all machines are in."
  value       = local.subnet_id
}

output "security_group_id" {
  description = "The security group of all machines, which may talk to each other."
  value       = nebius_vpc_v1_security_group.members.id
}

output "gpu_cluster_id" {
  description = "The GPU cluster that joins the nodes by InfiniBand; null without one."
  value       = one([for cluster in nebius_compute_v1_gpu_cluster.this : cluster.id])
}

output "shared_storage_id" {
  description = "The shared filesystem."
  value       = local.shared_id
}

output "bucket_name" {
  description = "The bucket; null without one."
  value       = local.bucket_name
}

output "service_account_id" {
  description = "The service account of the nodes; null without one."
  value       = var.service_account_id
}

locals {
  master = {
    name           = local.head_name
    address        = local.head_address
    public_address = local.head_public
    instance_id    = nebius_compute_v1_instance.head.id
    instance_type  = var.head_instance_type
  }
}

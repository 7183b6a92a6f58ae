# A cluster of dto's own module whose machines are hosts of a lab.

terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

variable "region" {
  type = string
}

variable "ssh_user" {
  type = string
}

variable "ssh_public_key_path" {
  type = string
}

variable "wheels" {
  type = string
}

provider "aws" {
  region = var.region
}

module "cluster" {
  source = "../modules/horovod-hpc"

  cluster_name        = "chain"
  region              = var.region
  instance_type       = "c5.large"
  instance_count      = 1
  max_instance_count  = 3
  ssh_user            = var.ssh_user
  ssh_public_key_path = var.ssh_public_key_path
  allowed_cidr_blocks = ["203.0.113.7/32"]
  create_nat_gateway  = false
  create_s3_bucket    = false
  shared_storage      = "nfs"
  prices              = { "c5.large" = 0.5, "m6i.large" = 0.25 }
  budget              = { amount = 650 }
}

# What is different of hosts that share one machine: its folders, its kernel, no package index.
output "dto_cluster" {
  value = merge(module.cluster.dto_cluster, {
    shared   = { kind = "existing" }
    software = { wheels = var.wheels }
    slurm    = { proctrack = "linuxproc", task_plugin = "none" }
  })
}

output "scaling_group" {
  value = module.cluster.worker_nodes.scaling_group
}

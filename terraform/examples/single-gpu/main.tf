# One GPU as cheap as it gets: no NAT gateway, the head's disk for data, a small head.
#   cd terraform/examples/single-gpu && terraform init && terraform apply

terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.90"
    }
  }
}

provider "aws" {
  region = "eu-north-1"
}

variable "allowed_cidr_blocks" {
  description = "Networks that may reach the head over ssh: your own address, [\"203.0.113.7/32\"]."
  type        = list(string)
}

module "cluster" {
  source = "../../modules/horovod-hpc"

  cluster_name        = "one"
  region              = "eu-north-1"
  instance_type       = "g5.xlarge"
  instance_count      = 1
  allowed_cidr_blocks = var.allowed_cidr_blocks

  use_public_subnet        = true
  enable_efa               = false
  placement_group_strategy = "none"
  shared_storage           = "nfs"
  head_instance_type       = "t3.medium"
  root_volume_size         = 100
}

output "dto_cluster" {
  description = "The cluster's record, for `dto cluster setup --from-terraform`."
  value       = module.cluster.dto_cluster
}

# Nodes in a network that exists: its private subnet must reach the internet by its own routes.
#   cd terraform/examples/existing-vpc && terraform init && terraform apply

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

variable "vpc_id" {
  description = "The network: vpc-..."
  type        = string
}

variable "public_subnet_id" {
  description = "Its subnet with an internet gateway, for the head: subnet-..."
  type        = string
}

variable "private_subnet_id" {
  description = "Its subnet for the nodes, in the same zone: subnet-..."
  type        = string
}

module "cluster" {
  source = "../../modules/horovod-hpc"

  cluster_name        = "inside"
  region              = "eu-north-1"
  instance_type       = "g5.xlarge"
  instance_count      = 2
  allowed_cidr_blocks = var.allowed_cidr_blocks

  create_vpc                 = false
  existing_vpc_id            = var.vpc_id
  existing_public_subnet_id  = var.public_subnet_id
  existing_private_subnet_id = var.private_subnet_id
}

output "dto_cluster" {
  description = "The cluster's record, for `dto cluster setup --from-terraform`."
  value       = module.cluster.dto_cluster
}

# Two nodes in a capacity reservation of yours, with EFA and FSx for Lustre.
#   cd terraform/examples/reserved && terraform init && terraform apply

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

variable "capacity_reservation_id" {
  description = "The reservation: cr-..."
  type        = string
}

variable "availability_zone" {
  description = "The zone of the reservation, such as eu-north-1a."
  type        = string
}

module "cluster" {
  source = "../../modules/horovod-hpc"

  cluster_name        = "reserved"
  region              = "eu-north-1"
  instance_type       = "p5.48xlarge"
  instance_count      = 2
  allowed_cidr_blocks = var.allowed_cidr_blocks

  capacity_type           = "reserved"
  capacity_reservation_id = var.capacity_reservation_id
  availability_zone       = var.availability_zone
  shared_storage          = "fsx-lustre"
}

output "dto_cluster" {
  description = "The cluster's record, for `dto cluster setup --from-terraform`."
  value       = module.cluster.dto_cluster
}

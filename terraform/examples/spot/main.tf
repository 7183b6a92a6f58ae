# Four spot nodes with eight GPUs each, at most eight; where one type has no capacity, the other.
#   cd terraform/examples/spot && terraform init && terraform apply

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

  cluster_name        = "spot"
  region              = "eu-north-1"
  instance_type       = "p4d.24xlarge"
  instance_count      = 4
  allowed_cidr_blocks = var.allowed_cidr_blocks

  max_instance_count      = 8
  capacity_type           = "spot"
  fallback_instance_types = ["p4de.24xlarge"]
  shared_storage          = "fsx-lustre"

  # what you pay, an hour; at 100 % of the amount jobs save and the nodes go off
  prices = { "p4d.24xlarge-spot" = 12, "p4de.24xlarge-spot" = 15, "m6i.large" = 0.1 }
  budget = { amount = 2000, idle_minutes = 30 }
}

output "dto_cluster" {
  description = "The cluster's record, for `dto cluster setup --from-terraform`."
  value       = module.cluster.dto_cluster
}

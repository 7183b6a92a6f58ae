# The state in a bucket, locked by a file beside it: for people who share a cluster.
#   cd terraform/examples/s3-backend && terraform init && terraform apply

terraform {
  required_version = ">= 1.11"

  # terraform init -backend-config=bucket=YOUR-BUCKET; make the bucket first, with versions
  backend "s3" {
    key          = "dto/shared.tfstate"
    region       = "eu-north-1"
    encrypt      = true
    use_lockfile = true
  }

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

  cluster_name        = "shared"
  region              = "eu-north-1"
  instance_type       = "g5.xlarge"
  instance_count      = 2
  allowed_cidr_blocks = var.allowed_cidr_blocks
}

output "dto_cluster" {
  description = "The cluster's record, for `dto cluster setup --from-terraform`."
  value       = module.cluster.dto_cluster
}

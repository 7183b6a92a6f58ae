# The cheapest cluster that runs SLURM: a head and two nodes without GPUs, to try things out.
#   terraform init && terraform apply -var project_id=project-e00abcdef -var 'allowed_cidr_blocks=["203.0.113.7/32"]'

terraform {
  required_version = ">= 1.11"

  required_providers {
    nebius = {
      source  = "nebius/nebius"
      version = ">= 0.6.9"
    }
  }
}

provider "nebius" {
  service_account = {
    account_id_env       = "NB_SA_ID"
    public_key_id_env    = "NB_AUTHKEY_PUBLIC_ID"
    private_key_file_env = "NB_AUTHKEY_PRIVATE_PATH"
  }
}

variable "project_id" {
  description = "Your project."
  type        = string
}

variable "allowed_cidr_blocks" {
  description = "Networks that may reach the cluster over ssh."
  type        = list(string)
}

variable "vm_ssh_public_key_path" {
  description = "File of the public key that may log in."
  type        = string
  default     = "~/.ssh/id_ed25519.pub"
}

module "cluster" {
  source = "../../modules/nebius-hpc"

  cluster_name        = "try"
  instance_type       = "cpu-d3/4vcpu-16gb"
  instance_count      = 2
  root_volume_size    = 50
  shared_storage_size = 64

  project_id             = var.project_id
  allowed_cidr_blocks    = var.allowed_cidr_blocks
  vm_ssh_public_key_path = var.vm_ssh_public_key_path
}

output "dto_cluster" {
  description = "The cluster's record, which `dto cluster setup --from-terraform` reads."
  value       = module.cluster.dto_cluster
}

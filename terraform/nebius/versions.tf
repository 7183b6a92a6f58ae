terraform {
  required_version = ">= 1.11"

  # There is no lock file here (.gitignore): only the aws root has one, and only for aws. For one of
  # your own: terraform providers lock -platform=linux_amd64 nebius/nebius
  required_providers {
    nebius = {
      source  = "nebius/nebius"
      version = ">= 0.6.9"
    }
  }
}

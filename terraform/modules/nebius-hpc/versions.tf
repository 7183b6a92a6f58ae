terraform {
  required_version = ">= 1.11"

  required_providers {
    nebius = {
      source  = "nebius/nebius"
      version = ">= 0.6.9"
    }
  }
}

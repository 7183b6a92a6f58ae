terraform {
  # 1.11: a secret's value can stay out of the state (write-only arguments)
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.90"
    }
  }
}

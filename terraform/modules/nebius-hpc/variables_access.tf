variable "vm_username" {
  description = "User that the machines are made with, for you and for dto; the images have none."
  type        = string
  default     = "ubuntu"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_-]{0,31}$", var.vm_username))
    error_message = "vm_username must be 1 to 32 small letters, digits, '_' and '-', and start with a letter or '_'."
  }

  validation {
    condition     = !contains(["root", "admin"], var.vm_username)
    error_message = "vm_username: Nebius keeps root and admin for itself; take another name."
  }
}

variable "vm_ssh_public_key_path" {
  description = "File of the public key that may log in. Terraform never makes or reads a private key."
  type        = string
  default     = "~/.ssh/id_ed25519.pub"
  nullable    = false

  validation {
    condition     = fileexists(pathexpand(var.vm_ssh_public_key_path))
    error_message = "vm_ssh_public_key_path: there is no such file; make a key with ssh-keygen -t ed25519, or name yours."
  }

  validation {
    condition     = can(regex("^(ssh-|ecdsa-|sk-)", try(file(pathexpand(var.vm_ssh_public_key_path)), "ssh-")))
    error_message = "vm_ssh_public_key_path must be the public half of a key, the file that ends in .pub."
  }
}

variable "existing_private_key_path" {
  description = "Private key that dto logs in with, as a path on your machine; null takes the public key's without .pub. Only the path is kept."
  type        = string
  default     = null
}

variable "head_service_account_id" {
  description = "Service account of the head, with leave to start and stop this project's machines; null: the head can do neither."
  type        = string
  default     = null

  validation {
    condition     = var.head_service_account_id == null || can(regex("^serviceaccount-[a-z0-9]+$", var.head_service_account_id))
    error_message = "head_service_account_id must look like serviceaccount-e00abcdef."
  }
}

variable "service_account_id" {
  description = "Service account of the nodes, for what jobs ask of the cloud, such as the bucket."
  type        = string
  default     = null

  validation {
    condition     = var.service_account_id == null || can(regex("^serviceaccount-[a-z0-9]+$", var.service_account_id))
    error_message = "service_account_id must look like serviceaccount-e00abcdef."
  }
}

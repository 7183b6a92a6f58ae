variable "root_volume_type" {
  description = "Type of the boot disks."
  type        = string
  default     = "NETWORK_SSD"
  nullable    = false

  validation {
    condition     = contains(["NETWORK_SSD", "NETWORK_HDD", "NETWORK_SSD_NON_REPLICATED", "NETWORK_SSD_IO_M3"], var.root_volume_type)
    error_message = "root_volume_type must be NETWORK_SSD, NETWORK_HDD, NETWORK_SSD_NON_REPLICATED or NETWORK_SSD_IO_M3."
  }
}

variable "root_volume_size" {
  description = "Size of each machine's boot disk in GiB."
  type        = number
  default     = 200
  nullable    = false

  validation {
    condition     = var.root_volume_size >= 50 && floor(var.root_volume_size) == var.root_volume_size
    error_message = "root_volume_size must be a whole number of GiB, at least 50: CUDA and PyTorch need the room."
  }
}

variable "shared_storage_mount_point" {
  description = "Where every machine mounts the shared filesystem; checkpoints belong there."
  type        = string
  default     = "/mnt/filesystem"
  nullable    = false

  validation {
    condition     = can(regex("^(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$", var.shared_storage_mount_point))
    error_message = "shared_storage_mount_point must be an absolute path of letters, digits and _ . - such as /mnt/filesystem."
  }

  validation {
    condition = !can(regex("^/(bin|boot|dev|etc|lib|proc|run|sbin|sys|usr)(/|$)", var.shared_storage_mount_point)) && !contains(
      ["/home", "/root", "/opt", "/mnt", "/srv", "/tmp", "/var", "/var/tmp"], var.shared_storage_mount_point
    )
    error_message = "shared_storage_mount_point belongs to the system; take a folder of its own, such as /mnt/filesystem."
  }
}

variable "shared_storage_type" {
  description = "Type of the shared filesystem."
  type        = string
  default     = "NETWORK_SSD"
  nullable    = false

  validation {
    condition     = contains(["NETWORK_SSD", "NETWORK_HDD", "WEKA", "VAST"], var.shared_storage_type)
    error_message = "shared_storage_type must be NETWORK_SSD, NETWORK_HDD, WEKA or VAST."
  }
}

variable "shared_storage_size" {
  description = "Size of the shared filesystem in GiB."
  type        = number
  default     = 1024
  nullable    = false

  validation {
    condition     = var.shared_storage_size >= 1 && floor(var.shared_storage_size) == var.shared_storage_size
    error_message = "shared_storage_size must be a whole number of GiB."
  }
}

variable "existing_shared_storage_id" {
  description = "Filesystem to mount instead of making one; it is left alone when the cluster is destroyed."
  type        = string
  default     = null
}

variable "create_s3_bucket" {
  description = "Make a bucket for checkpoints and final models."
  type        = bool
  default     = true
  nullable    = false
}

variable "bucket_name" {
  description = "Name of the bucket to make, or where create_s3_bucket is false of one that exists; null makes one up from the cluster's."
  type        = string
  default     = null

  validation {
    condition     = var.bucket_name == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name must be 3 to 63 small letters, digits, '.' and '-'."
  }
}

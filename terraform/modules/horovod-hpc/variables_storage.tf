variable "shared_storage" {
  description = "The filesystem that all hosts see: efs (managed, grows by itself), fsx-lustre (fast, from 1.2 TiB) or nfs (the head's own disk)."
  type        = string
  default     = "efs"

  validation {
    condition     = contains(["efs", "fsx-lustre", "nfs"], var.shared_storage)
    error_message = "shared_storage must be efs, fsx-lustre or nfs."
  }
}

variable "shared_storage_mount_point" {
  description = "Where all hosts mount it."
  type        = string
  default     = "/shared"

  validation {
    condition     = can(regex("^(/[A-Za-z0-9_.-]+)+$", var.shared_storage_mount_point)) && !contains(["/home", "/root", "/opt", "/mnt", "/srv", "/tmp", "/var"], var.shared_storage_mount_point) && !can(regex("^/(bin|boot|dev|etc|lib|proc|run|sbin|sys|usr)(/|$)", var.shared_storage_mount_point))
    error_message = "shared_storage_mount_point must be an absolute path that is not the system's, such as /shared."
  }
}

variable "fsx_storage_capacity" {
  description = "Size of FSx for Lustre in GiB: 1200, 2400 or a multiple of 2400."
  type        = number
  default     = 1200

  validation {
    condition     = var.fsx_storage_capacity == 1200 || (var.fsx_storage_capacity > 0 && var.fsx_storage_capacity % 2400 == 0)
    error_message = "fsx_storage_capacity must be 1200, 2400 or a multiple of 2400."
  }
}

variable "fsx_throughput_per_tib" {
  description = "Throughput of FSx for Lustre in MB/s for each TiB: 125, 250, 500 or 1000."
  type        = number
  default     = 125

  validation {
    condition     = contains([125, 250, 500, 1000], var.fsx_throughput_per_tib)
    error_message = "fsx_throughput_per_tib must be 125, 250, 500 or 1000."
  }
}

variable "head_volume_size" {
  description = "Size of the head's disk in GiB; with shared_storage = \"nfs\" all data lies on it."
  type        = number
  default     = 100

  validation {
    condition     = var.head_volume_size >= 20 && var.head_volume_size <= 16384
    error_message = "head_volume_size must be from 20 to 16384 GiB."
  }
}

variable "root_device_name" {
  description = "What the nodes' image calls its root disk: /dev/sda1 in Ubuntu's, /dev/xvda in Debian's and Amazon's."
  type        = string
  default     = "/dev/sda1"

  validation {
    condition     = contains(["/dev/sda1", "/dev/xvda"], var.root_device_name)
    error_message = "root_device_name must be /dev/sda1 or /dev/xvda."
  }
}

variable "root_volume_type" {
  description = "Kind of the nodes' root disk: gp3, io1 or io2."
  type        = string
  default     = "gp3"

  validation {
    condition     = contains(["gp3", "io1", "io2"], var.root_volume_type)
    error_message = "root_volume_type must be gp3, io1 or io2."
  }
}

variable "root_volume_size" {
  description = "Size of the nodes' root disk in GiB."
  type        = number
  default     = 200

  validation {
    condition     = var.root_volume_size >= 20 && var.root_volume_size <= 16384
    error_message = "root_volume_size must be from 20 to 16384 GiB."
  }
}

variable "root_volume_iops" {
  description = "Operations per second of the nodes' root disk; io1 and io2 need it; null: what the kind gives."
  type        = number
  default     = null

  validation {
    condition     = var.root_volume_iops == null ? var.root_volume_type == "gp3" : try(var.root_volume_iops >= 100 && var.root_volume_iops <= 256000, false)
    error_message = "root_volume_iops must be from 100 to 256000, and be given for io1 and io2."
  }
}

variable "root_volume_throughput" {
  description = "MB/s of the nodes' root disk, 125 to 1000, for gp3 only; null: 125."
  type        = number
  default     = null

  validation {
    condition     = var.root_volume_throughput == null || try(var.root_volume_type == "gp3" && var.root_volume_throughput >= 125 && var.root_volume_throughput <= 1000, false)
    error_message = "root_volume_throughput must be from 125 to 1000 and needs root_volume_type = \"gp3\"."
  }
}

variable "additional_ebs_volumes" {
  description = "More disks for every node, gone with the node: device_name (/dev/sdf ...), size in GiB, and type, iops, throughput where they matter."
  type = list(object({
    device_name = string
    size        = number
    type        = optional(string, "gp3")
    iops        = optional(number)
    throughput  = optional(number)
  }))
  default = []

  validation {
    condition     = alltrue([for disk in var.additional_ebs_volumes : can(regex("^/dev/sd[f-p]$", disk.device_name)) && disk.size >= 1 && contains(["gp3", "io1", "io2", "st1", "sc1"], disk.type)])
    error_message = "additional_ebs_volumes: device_name must be /dev/sdf to /dev/sdp, size at least 1 GiB, type gp3, io1, io2, st1 or sc1."
  }

  validation {
    condition     = length(distinct(var.additional_ebs_volumes[*].device_name)) == length(var.additional_ebs_volumes)
    error_message = "additional_ebs_volumes names one device twice."
  }
}

variable "kms_key_arn" {
  description = "Your own KMS key for disks and shared filesystem; null: AWS's. The auto-scaling service must be allowed to use it."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a KMS key."
  }
}

variable "create_s3_bucket" {
  description = "Make a bucket for checkpoints and final models."
  type        = bool
  default     = true

  validation {
    condition     = !var.create_s3_bucket || var.s3_bucket_arn == null
    error_message = "s3_bucket_arn names a bucket that exists: it needs create_s3_bucket = false."
  }
}

variable "s3_bucket_arn" {
  description = "A bucket that exists, to use instead: arn:aws:s3:::NAME, or arn:aws:s3:::NAME/FOLDER to stay within a folder of it."
  type        = string
  default     = null

  validation {
    condition     = var.s3_bucket_arn == null || can(regex("^arn:aws[a-z-]*:s3:::[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_./-]*)?$", var.s3_bucket_arn))
    error_message = "s3_bucket_arn must look like arn:aws:s3:::NAME or arn:aws:s3:::NAME/FOLDER."
  }
}

variable "s3_force_destroy" {
  description = "Let `terraform destroy` delete the bucket with what is in it; false: destroy stops at a bucket that is not empty."
  type        = bool
  default     = false
}

variable "s3_old_version_days" {
  description = "How long the bucket keeps what was overwritten or deleted."
  type        = number
  default     = 7

  validation {
    condition     = var.s3_old_version_days >= 1
    error_message = "s3_old_version_days must be at least 1."
  }
}

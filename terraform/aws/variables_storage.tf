variable "shared_storage" {
  description = "The filesystem that all hosts see: efs (managed, grows by itself), fsx-lustre (fast, from 1.2 TiB) or nfs (the head's own disk)."
  type        = string
  default     = "efs"
}

variable "shared_storage_mount_point" {
  description = "Where all hosts mount it."
  type        = string
  default     = "/shared"
}

variable "fsx_storage_capacity" {
  description = "Size of FSx for Lustre in GiB: 1200, 2400 or a multiple of 2400."
  type        = number
  default     = 1200
}

variable "fsx_throughput_per_tib" {
  description = "Throughput of FSx for Lustre in MB/s for each TiB: 125, 250, 500 or 1000."
  type        = number
  default     = 125
}

variable "head_volume_size" {
  description = "Size of the head's disk in GiB; with shared_storage = \"nfs\" all data lies on it."
  type        = number
  default     = 100
}

variable "root_device_name" {
  description = "What the nodes' image calls its root disk: /dev/sda1 in Ubuntu's, /dev/xvda in Debian's and Amazon's."
  type        = string
  default     = "/dev/sda1"
}

variable "root_volume_type" {
  description = "Kind of the nodes' root disk: gp3, io1 or io2."
  type        = string
  default     = "gp3"
}

variable "root_volume_size" {
  description = "Size of the nodes' root disk in GiB."
  type        = number
  default     = 200
}

variable "root_volume_iops" {
  description = "Operations per second of the nodes' root disk; io1 and io2 need it; null: what the kind gives."
  type        = number
  default     = null
}

variable "root_volume_throughput" {
  description = "MB/s of the nodes' root disk, 125 to 1000, for gp3 only; null: 125."
  type        = number
  default     = null
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
}

variable "kms_key_arn" {
  description = "Your own KMS key for disks and shared filesystem; null: AWS's. The auto-scaling service must be allowed to use it."
  type        = string
  default     = null
}

variable "create_s3_bucket" {
  description = "Make a bucket for checkpoints and final models."
  type        = bool
  default     = true
}

variable "s3_bucket_arn" {
  description = "A bucket that exists, to use instead: arn:aws:s3:::NAME, or arn:aws:s3:::NAME/FOLDER to stay within a folder of it."
  type        = string
  default     = null
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
}

# What each may be, and what it is where it is left out, stands in modules/nebius-hpc/variables_*.tf.
variable "auth" {
  description = "How to sign in: service-account (NB_SA_ID, NB_AUTHKEY_PUBLIC_ID and NB_AUTHKEY_PRIVATE_PATH name one and its key) or token (NEBIUS_IAM_TOKEN)."
  type        = string
  default     = "service-account"
  nullable    = false

  validation {
    condition     = contains(["service-account", "token"], var.auth)
    error_message = "auth must be service-account (NB_SA_ID, NB_AUTHKEY_PUBLIC_ID, NB_AUTHKEY_PRIVATE_PATH) or token (NEBIUS_IAM_TOKEN)."
  }
}

variable "cluster_name" {
  description = "Name of the cluster; every resource's name starts with it."
  type        = string
}

variable "project_id" {
  description = "Nebius project that everything is made in, such as project-e00abcdef. It has one region."
  type        = string
}

variable "tenant_id" {
  description = "Tenant that the project must belong to; a plan for a project of another tenant is refused. Not checked where it is null."
  type        = string
  default     = null
}

variable "region" {
  description = "Region to write into the cluster's record; null asks the project for its own."
  type        = string
  default     = null
}

variable "environment" {
  description = "Label for what the cluster is for, such as dev or prod."
  type        = string
  default     = null
}

variable "tags" {
  description = "Further labels on every resource."
  type        = map(string)
  default     = null
}

variable "instance_type" {
  description = "Platform and preset of the nodes, <platform>/<preset>, such as gpu-h100-sxm/8gpu-128vcpu-1600gb."
  type        = string
}

variable "instance_count" {
  description = "Number of nodes, without the head."
  type        = number
}

variable "head_instance_type" {
  description = "Platform and preset of the head, which takes no jobs."
  type        = string
  default     = null
}

variable "image_family" {
  description = "Image family of the nodes; null takes Ubuntu 24.04, with CUDA where the preset has GPUs."
  type        = string
  default     = null
}

variable "head_image_family" {
  description = "Image family of the head."
  type        = string
  default     = null
}

variable "image_id" {
  description = "One image for the nodes instead of the newest of a family."
  type        = string
  default     = null
}

variable "enable_infiniband" {
  description = "Put nodes with 8 GPUs into a GPU cluster, whose InfiniBand fabric joins them. Other presets have none."
  type        = bool
  default     = null
}

variable "infiniband_fabric" {
  description = "InfiniBand fabric of the GPU cluster, such as fabric-3; it must fit the region and the platform."
  type        = string
  default     = null
}

variable "enable_monitoring" {
  description = "Install the exporters, Prometheus and Grafana when the cluster is set up."
  type        = bool
  default     = null
}

variable "node_groups" {
  description = "Partition of the nodes by its group's name: gpu where the preset has GPUs, else cpu. Gives its time limit and features."
  type = map(object({
    partition = optional(string)
    max_time  = optional(string)
    features  = optional(list(string))
  }))
  default = null
}

variable "allowed_cidr_blocks" {
  description = "Networks that may reach the cluster over ssh, such as 203.0.113.7/32. There is no default: who may come in is a choice."
  type        = list(string)
}

variable "create_vpc" {
  description = "Make a network of the cluster's own; else existing_private_subnet_id says where."
  type        = bool
  default     = null
}

variable "private_subnet_cidr" {
  description = "Addresses of the cluster's own subnet; null takes some out of the network's pool."
  type        = string
  default     = null
}

variable "existing_private_subnet_id" {
  description = "Subnet to put the cluster into where create_vpc is false."
  type        = string
  default     = null
}

variable "use_public_subnet" {
  description = "Give every node a public address of its own, too; ssh stays limited to allowed_cidr_blocks."
  type        = bool
  default     = null
}

variable "head_is_proxy" {
  description = "Let nodes without a public address reach packages through a web proxy on the head."
  type        = bool
  default     = null
}

variable "root_volume_type" {
  description = "Type of the boot disks."
  type        = string
  default     = null
}

variable "root_volume_size" {
  description = "Size of each machine's boot disk in GiB."
  type        = number
  default     = null
}

variable "shared_storage_mount_point" {
  description = "Where every machine mounts the shared filesystem; checkpoints belong there."
  type        = string
  default     = null
}

variable "shared_storage_type" {
  description = "Type of the shared filesystem."
  type        = string
  default     = null
}

variable "shared_storage_size" {
  description = "Size of the shared filesystem in GiB."
  type        = number
  default     = null
}

variable "existing_shared_storage_id" {
  description = "Filesystem to mount instead of making one; it is left alone when the cluster is destroyed."
  type        = string
  default     = null
}

variable "create_s3_bucket" {
  description = "Make a bucket for checkpoints and final models."
  type        = bool
  default     = null
}

variable "bucket_name" {
  description = "Name of the bucket to make, or where create_s3_bucket is false of one that exists; null makes one up from the cluster's."
  type        = string
  default     = null
}

variable "vm_username" {
  description = "User that the machines are made with, for you and for dto; the images have none."
  type        = string
  default     = null
}

variable "vm_ssh_public_key_path" {
  description = "File of the public key that may log in. Terraform never makes or reads a private key."
  type        = string
  default     = null
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
}

variable "service_account_id" {
  description = "Service account of the nodes, for what jobs ask of the cloud, such as the bucket."
  type        = string
  default     = null
}

variable "capacity_type" {
  description = "How nodes are bought: on-demand, spot (preemptible: cheaper, stopped when Nebius needs them) or reserved (capacity_reservation_id). The head is on demand."
  type        = string
  default     = null
}

variable "capacity_reservation_id" {
  description = "The reservation that capacity_type = \"reserved\" takes its nodes from, and from nothing else."
  type        = string
  default     = null
}

variable "prices" {
  description = "Price of an hour by instance type, as in your contract; <type>-spot is the price on spot. dto asks nobody for prices."
  type        = map(number)
  default     = null
}

variable "budget" {
  description = "What the cluster may use: amount (in the currency of prices), hours (node-hours), idle_minutes until a node is switched off."
  type = object({
    amount       = optional(number)
    hours        = optional(number)
    idle_minutes = optional(number)
  })
  default = null
}

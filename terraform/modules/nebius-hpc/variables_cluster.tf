variable "cluster_name" {
  description = "Name of the cluster; every resource's name starts with it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", var.cluster_name))
    error_message = "cluster_name must be 1 to 32 small letters, digits and '-', and start with a letter."
  }
}

variable "project_id" {
  description = "Nebius project that everything is made in, such as project-e00abcdef. It has one region."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^project-[a-z0-9]+$", var.project_id))
    error_message = "project_id must look like project-e00abcdef; the web console shows it beside the project's name."
  }
}

variable "tenant_id" {
  description = "Tenant that the project must belong to; a plan for a project of another tenant is refused. Not checked where it is null."
  type        = string
  default     = null

  validation {
    condition     = var.tenant_id == null || can(regex("^tenant-[a-z0-9]+$", var.tenant_id))
    error_message = "tenant_id must look like tenant-e00abcdef, or be left out."
  }
}

variable "region" {
  description = "Region to write into the cluster's record; null asks the project for its own."
  type        = string
  default     = null

  validation {
    condition     = var.region == null || can(regex("^[a-z]+-[a-z]+[0-9]$", var.region))
    error_message = "region must look like eu-north1, or be left out."
  }
}

variable "environment" {
  description = "Label for what the cluster is for, such as dev or prod."
  type        = string
  default     = "dev"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{0,31}$", var.environment))
    error_message = "environment must be 1 to 32 small letters, digits and '-'."
  }
}

variable "tags" {
  description = "Further labels on every resource."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for key in keys(var.tags) : !startswith(key, "dto-")])
    error_message = "Labels in tags must not start with dto-: dto finds its own resources by those."
  }
}

variable "instance_type" {
  description = "Platform and preset of the nodes, <platform>/<preset>, such as gpu-h100-sxm/8gpu-128vcpu-1600gb."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]+(-[a-z0-9]+)*/([0-9]+gpu-)?[0-9]+vcpu-[0-9]+gb$", var.instance_type))
    error_message = "instance_type must be <platform>/<preset>, such as gpu-h100-sxm/8gpu-128vcpu-1600gb or gpu-h100-sxm/1gpu-16vcpu-200gb."
  }

  validation {
    condition     = startswith(var.instance_type, "gpu-") == can(regex("/[0-9]+gpu-", var.instance_type))
    error_message = "instance_type: a gpu-... platform takes a preset with GPUs (8gpu-128vcpu-1600gb), a cpu-... platform one without (4vcpu-16gb)."
  }
}

variable "instance_count" {
  description = "Number of nodes, without the head."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.instance_count >= 1 && var.instance_count <= 256 && floor(var.instance_count) == var.instance_count
    error_message = "instance_count must be a whole number from 1 to 256; to have no nodes, destroy the cluster (dto cluster down)."
  }
}

variable "head_instance_type" {
  description = "Platform and preset of the head, which takes no jobs."
  type        = string
  default     = "cpu-d3/4vcpu-16gb"
  nullable    = false

  validation {
    condition     = can(regex("^cpu-[a-z0-9]+/[0-9]+vcpu-[0-9]+gb$", var.head_instance_type))
    error_message = "head_instance_type must be a preset without GPUs, such as cpu-d3/4vcpu-16gb: the head takes no jobs."
  }
}

variable "image_family" {
  description = "Image family of the nodes; null takes Ubuntu 24.04, with CUDA where the preset has GPUs."
  type        = string
  default     = null
}

variable "head_image_family" {
  description = "Image family of the head."
  type        = string
  default     = "ubuntu24.04-driverless"
  nullable    = false
}

variable "image_id" {
  description = "One image for the nodes instead of the newest of a family."
  type        = string
  default     = null

  validation {
    condition     = var.image_id == null || var.image_family == null
    error_message = "Give image_id or image_family, not both."
  }
}

variable "enable_infiniband" {
  description = "Put nodes with 8 GPUs into a GPU cluster, whose InfiniBand fabric joins them. Other presets have none."
  type        = bool
  default     = true
  nullable    = false
}

variable "infiniband_fabric" {
  description = "InfiniBand fabric of the GPU cluster, such as fabric-3; it must fit the region and the platform."
  type        = string
  default     = null

  validation {
    condition     = var.infiniband_fabric == null || can(regex("/8gpu-", var.instance_type))
    error_message = "infiniband_fabric: only presets with 8 GPUs fit a GPU cluster; leave it out, or take a preset such as 8gpu-128vcpu-1600gb."
  }

  validation {
    condition     = var.infiniband_fabric != null || !var.enable_infiniband || !can(regex("/8gpu-", var.instance_type))
    error_message = "infiniband_fabric must name the fabric that joins nodes with 8 GPUs (Nebius lists them by region and platform), or set enable_infiniband = false."
  }
}

variable "enable_monitoring" {
  description = "Install the exporters, Prometheus and Grafana when the cluster is set up."
  type        = bool
  default     = false
  nullable    = false
}

variable "node_groups" {
  description = "Partition of the nodes by its group's name: gpu where the preset has GPUs, else cpu. Gives its time limit and features."
  type = map(object({
    partition = optional(string)
    max_time  = optional(string)
    features  = optional(list(string))
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.node_groups) : contains(["gpu", "cpu"], name)])
    error_message = "node_groups: the groups are gpu and cpu."
  }
}

# The cluster itself: the five that must be answered are cluster_name, region, instance_type,
# instance_count (here) and allowed_cidr_blocks (variables_network.tf).

variable "cluster_name" {
  description = "Name of the cluster: it begins every name and is the tag `dto:cluster` of everything that is made."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", var.cluster_name))
    error_message = "cluster_name must be 1 to 32 small letters, digits and '-', start with a letter and not end with '-'."
  }
}

variable "region" {
  description = "AWS region, such as eu-north-1; the provider must be set to the same one."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]+$", var.region))
    error_message = "region must be the name of an AWS region, such as eu-north-1."
  }
}

variable "instance_type" {
  description = "Instance type of the nodes, such as p5.48xlarge; GPUs and EFA cards are read from AWS's own data."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", var.instance_type))
    error_message = "instance_type must be the name of an EC2 instance type, such as g5.xlarge."
  }
}

variable "instance_count" {
  description = "How many nodes the cluster starts with; later the head and `dto` change the number within max_instance_count."
  type        = number

  validation {
    condition     = var.instance_count >= 1 && var.instance_count <= 1000 && floor(var.instance_count) == var.instance_count
    error_message = "instance_count must be a whole number from 1 to 1000; a cluster of no nodes is not worth its head."
  }
}

variable "max_instance_count" {
  description = "How many nodes there may be at most; null: instance_count."
  type        = number
  default     = null

  validation {
    condition     = var.max_instance_count == null || try(var.max_instance_count >= var.instance_count && floor(var.max_instance_count) == var.max_instance_count, false)
    error_message = "max_instance_count must be a whole number not below instance_count."
  }
}

variable "fallback_instance_types" {
  description = "Types to take, in this order, where instance_type has no capacity; each with as many GPUs and EFA cards, in the same zones."
  type        = list(string)
  default     = []

  validation {
    condition     = !contains(var.fallback_instance_types, var.instance_type) && length(distinct(var.fallback_instance_types)) == length(var.fallback_instance_types)
    error_message = "fallback_instance_types must name other types than instance_type, each once."
  }
}

variable "capacity_type" {
  description = "How nodes are bought: on-demand, spot (cheaper, can be taken away with two minutes' notice) or reserved (capacity_reservation_id)."
  type        = string
  default     = "on-demand"

  validation {
    condition     = contains(["on-demand", "spot", "reserved"], var.capacity_type)
    error_message = "capacity_type must be on-demand, spot or reserved."
  }
}

variable "capacity_reservation_id" {
  description = "The on-demand capacity reservation (cr-...) that capacity_type = \"reserved\" starts its nodes in."
  type        = string
  default     = null

  validation {
    condition     = (var.capacity_type == "reserved") == (var.capacity_reservation_id != null)
    error_message = "capacity_reservation_id belongs to capacity_type = \"reserved\": give both or neither."
  }

  validation {
    condition     = var.capacity_reservation_id == null || can(regex("^cr-[0-9a-f]+$", var.capacity_reservation_id))
    error_message = "capacity_reservation_id must look like cr-0123456789abcdef0."
  }
}

variable "spot_max_price" {
  description = "Most to pay for a spot node, in dollars an hour; null: up to the on-demand price."
  type        = number
  default     = null

  validation {
    condition     = var.spot_max_price == null || try(var.capacity_type == "spot" && var.spot_max_price > 0, false)
    error_message = "spot_max_price must be above 0 and needs capacity_type = \"spot\"."
  }
}

variable "head_instance_type" {
  description = "Instance type of the head: on demand, no GPU; it runs the controller and, with shared_storage = \"nfs\", the file server."
  type        = string
  default     = "m6i.large"

  validation {
    condition     = can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", var.head_instance_type))
    error_message = "head_instance_type must be the name of an EC2 instance type, such as m6i.large."
  }
}

variable "ami_id" {
  description = "Image of the nodes; null: the newest Ubuntu 24.04 when the cluster is made. It stays the same afterwards."
  type        = string
  default     = null

  validation {
    condition     = var.ami_id == null || can(regex("^ami-[0-9a-f]+$", var.ami_id))
    error_message = "ami_id must look like ami-0123456789abcdef0."
  }
}

variable "head_ami_id" {
  description = "Image of the head; null: the newest Ubuntu 24.04 when the cluster is made."
  type        = string
  default     = null

  validation {
    condition     = var.head_ami_id == null || can(regex("^ami-[0-9a-f]+$", var.head_ami_id))
    error_message = "head_ami_id must look like ami-0123456789abcdef0."
  }
}

variable "ami_ssm_parameter" {
  description = "SSM parameter that names the nodes' image instead, such as one of AWS's deep-learning images; null: Ubuntu 24.04."
  type        = string
  default     = null

  validation {
    condition     = var.ami_ssm_parameter == null || try(startswith(var.ami_ssm_parameter, "/") && var.ami_id == null, false)
    error_message = "ami_ssm_parameter must be a path that starts with /, and excludes ami_id."
  }
}

variable "environment" {
  description = "What the cluster is for (dev, prod ...): a tag, nothing else."
  type        = string
  default     = "dev"

  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]{1,63}$", var.environment))
    error_message = "environment must be 1 to 63 letters, digits and _ . -"
  }
}

variable "tags" {
  description = "More tags for everything that is made."
  type        = map(string)
  default     = {}

  validation {
    condition     = !anytrue([for key in keys(var.tags) : startswith(key, "dto:") || startswith(lower(key), "aws:") || key == "Name"])
    error_message = "tags must not use the keys Name, dto:... and aws:..., which have owners already."
  }
}

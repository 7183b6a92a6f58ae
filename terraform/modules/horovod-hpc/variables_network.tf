variable "allowed_cidr_blocks" {
  description = "Networks that may reach the head over ssh, such as your own address: [\"203.0.113.7/32\"]. There is no default: opening it to the world is a choice, not an accident."
  type        = list(string)

  validation {
    condition     = length(var.allowed_cidr_blocks) > 0 && alltrue([for block in var.allowed_cidr_blocks : can(cidrhost(block, 0))])
    error_message = "allowed_cidr_blocks must be CIDR blocks, at least one, such as 203.0.113.7/32."
  }

  validation {
    condition     = alltrue([for block in var.allowed_cidr_blocks : try(tonumber(split("/", block)[1]) >= 8, true)])
    error_message = "allowed_cidr_blocks must not open ssh to the world: name your own network (a prefix of /8 or longer), not 0.0.0.0/0 or ::/0."
  }
}

variable "create_vpc" {
  description = "Make a network of the cluster's own; false: use existing_vpc_id and its two subnets."
  type        = bool
  default     = true

  validation {
    condition     = var.create_vpc || (var.existing_vpc_id != null && var.existing_public_subnet_id != null && var.existing_private_subnet_id != null)
    error_message = "create_vpc = false needs existing_vpc_id, existing_public_subnet_id and existing_private_subnet_id."
  }

  validation {
    condition     = !var.create_vpc || (var.existing_vpc_id == null && var.existing_public_subnet_id == null && var.existing_private_subnet_id == null)
    error_message = "existing_vpc_id and existing_*_subnet_id need create_vpc = false."
  }
}

variable "vpc_cidr" {
  description = "Addresses of the cluster's own network."
  type        = string
  default     = "10.42.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && try(tonumber(split("/", var.vpc_cidr)[1]) >= 16 && tonumber(split("/", var.vpc_cidr)[1]) <= 28, false)
    error_message = "vpc_cidr must be an IPv4 block from /16 to /28, such as 10.42.0.0/16."
  }
}

variable "public_subnet_cidr" {
  description = "Addresses of the head's subnet, within vpc_cidr."
  type        = string
  default     = "10.42.0.0/24"

  validation {
    condition = can(cidrnetmask(var.public_subnet_cidr)) && try(
      tonumber(split("/", var.public_subnet_cidr)[1]) <= 28 && tonumber(split("/", var.public_subnet_cidr)[1]) >= tonumber(split("/", var.vpc_cidr)[1]) &&
      cidrhost("${split("/", var.public_subnet_cidr)[0]}/${split("/", var.vpc_cidr)[1]}", 0) == cidrhost(var.vpc_cidr, 0),
    false)
    error_message = "public_subnet_cidr must be an IPv4 block within vpc_cidr, not smaller than /28."
  }
}

variable "private_subnet_cidr" {
  description = "Addresses of the nodes' subnet, within vpc_cidr. Every EFA card takes one: seven p5.48xlarge fill a /24."
  type        = string
  default     = "10.42.16.0/20"

  validation {
    condition = can(cidrnetmask(var.private_subnet_cidr)) && try(
      tonumber(split("/", var.private_subnet_cidr)[1]) <= 28 && tonumber(split("/", var.private_subnet_cidr)[1]) >= tonumber(split("/", var.vpc_cidr)[1]) &&
      cidrhost("${split("/", var.private_subnet_cidr)[0]}/${split("/", var.vpc_cidr)[1]}", 0) == cidrhost(var.vpc_cidr, 0),
    false)
    error_message = "private_subnet_cidr must be an IPv4 block within vpc_cidr, not smaller than /28."
  }

  # Two blocks overlap where they begin alike at the length of the shorter prefix.
  validation {
    condition = try(
      cidrhost("${split("/", var.public_subnet_cidr)[0]}/${min(split("/", var.public_subnet_cidr)[1], split("/", var.private_subnet_cidr)[1])}", 0) !=
      cidrhost("${split("/", var.private_subnet_cidr)[0]}/${min(split("/", var.public_subnet_cidr)[1], split("/", var.private_subnet_cidr)[1])}", 0),
    true)
    error_message = "public_subnet_cidr and private_subnet_cidr overlap; give each its own addresses."
  }
}

variable "availability_zone" {
  description = "Zone of the cluster; null: the first zone that offers all its instance types when the cluster is made."
  type        = string
  default     = null

  validation {
    condition     = var.availability_zone == null || try(startswith(var.availability_zone, var.region) && var.create_vpc, false)
    error_message = "availability_zone must be a zone of region, such as eu-north-1a; with create_vpc = false the subnets decide."
  }
}

variable "additional_zones" {
  description = "More zones to start nodes in, each with the addresses of its own private subnet within vpc_cidr: { \"eu-north-1b\" = \"10.42.128.0/20\" }. Only with EFS and without EFA and a cluster placement group; traffic between zones is slower, and billed."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for zone in keys(var.additional_zones) : startswith(zone, var.region) && zone != var.availability_zone])
    error_message = "additional_zones must name zones of region, such as eu-north-1b, other than availability_zone."
  }

  validation {
    condition = alltrue([for block in values(var.additional_zones) : can(cidrnetmask(block)) && try(
      tonumber(split("/", block)[1]) <= 28 && tonumber(split("/", block)[1]) >= tonumber(split("/", var.vpc_cidr)[1]) &&
      cidrhost("${split("/", block)[0]}/${split("/", var.vpc_cidr)[1]}", 0) == cidrhost(var.vpc_cidr, 0),
    false)])
    error_message = "additional_zones must give each zone an IPv4 block within vpc_cidr, not smaller than /28."
  }

  validation {
    condition = alltrue(flatten([for number, one in values(var.additional_zones) : [
      for other in concat([var.public_subnet_cidr, var.private_subnet_cidr], slice(values(var.additional_zones), 0, number)) : try(
        cidrhost("${split("/", one)[0]}/${min(split("/", one)[1], split("/", other)[1])}", 0) !=
        cidrhost("${split("/", other)[0]}/${min(split("/", one)[1], split("/", other)[1])}", 0),
      true)
    ]]))
    error_message = "additional_zones: the subnets overlap with each other, public_subnet_cidr or private_subnet_cidr; give each its own addresses."
  }

  validation {
    condition     = length(var.additional_zones) == 0 || var.shared_storage == "efs"
    error_message = "additional_zones needs shared_storage = \"efs\": the other filesystems lie in one zone."
  }

  validation {
    condition     = length(var.additional_zones) == 0 || var.placement_group_strategy != "cluster"
    error_message = "additional_zones needs another placement_group_strategy, such as \"none\": a cluster placement group lies in one zone."
  }

  validation {
    condition     = length(var.additional_zones) == 0 || var.capacity_type != "reserved"
    error_message = "additional_zones does not go with capacity_type = \"reserved\": a reservation is of one zone."
  }

  validation {
    condition     = length(var.additional_zones) == 0 || (var.create_vpc && !var.use_public_subnet)
    error_message = "additional_zones needs create_vpc = true and use_public_subnet = false: it makes a private subnet in each zone."
  }
}

variable "existing_vpc_id" {
  description = "The network to use where create_vpc = false."
  type        = string
  default     = null

  validation {
    condition     = var.existing_vpc_id == null || can(regex("^vpc-[0-9a-f]+$", var.existing_vpc_id))
    error_message = "existing_vpc_id must look like vpc-0123456789abcdef0."
  }
}

variable "existing_public_subnet_id" {
  description = "The head's subnet where create_vpc = false; it must route to an internet gateway."
  type        = string
  default     = null

  validation {
    condition     = var.existing_public_subnet_id == null || can(regex("^subnet-[0-9a-f]+$", var.existing_public_subnet_id))
    error_message = "existing_public_subnet_id must look like subnet-0123456789abcdef0."
  }
}

variable "existing_private_subnet_id" {
  description = "The nodes' subnet where create_vpc = false, in the same zone as the head's; nodes reach the internet by its routes."
  type        = string
  default     = null

  validation {
    condition     = var.existing_private_subnet_id == null || can(regex("^subnet-[0-9a-f]+$", var.existing_private_subnet_id))
    error_message = "existing_private_subnet_id must look like subnet-0123456789abcdef0."
  }
}

variable "use_public_subnet" {
  description = "Put the nodes into the head's subnet, with public addresses and no NAT gateway: cheaper for nodes without EFA."
  type        = bool
  default     = false
}

variable "create_nat_gateway" {
  description = "Let private nodes reach the internet through a NAT gateway (about a dollar a day); without one they cannot install anything."
  type        = bool
  default     = true
}

variable "enable_efa" {
  description = "Give every node the EFA cards of its type; null: where instance_type has EFA."
  type        = bool
  default     = null
}

variable "placement_group_strategy" {
  description = "How nodes lie in the data centre: cluster (close together, what NCCL wants), spread, partition, or none."
  type        = string
  default     = "cluster"

  validation {
    condition     = contains(["cluster", "spread", "partition", "none"], var.placement_group_strategy)
    error_message = "placement_group_strategy must be cluster, spread, partition or none."
  }
}

variable "enable_flow_logs" {
  description = "Record the network's connections in CloudWatch (billed by AWS)."
  type        = bool
  default     = false

  validation {
    condition     = !var.enable_flow_logs || var.create_vpc
    error_message = "enable_flow_logs needs create_vpc = true: somebody else's network keeps its own logs."
  }
}

variable "allowed_cidr_blocks" {
  description = "Networks that may reach the cluster over ssh, such as 203.0.113.7/32. There is no default: who may come in is a choice."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.allowed_cidr_blocks) > 0
    error_message = "allowed_cidr_blocks must name at least one network, or nobody could reach the head."
  }

  validation {
    condition     = alltrue([for block in var.allowed_cidr_blocks : can(cidrnetmask(block))])
    error_message = "Each of allowed_cidr_blocks must be an IPv4 network, such as 203.0.113.7/32 for one address."
  }

  validation {
    condition     = alltrue([for block in var.allowed_cidr_blocks : !endswith(block, "/0")])
    error_message = "allowed_cidr_blocks must not open ssh to the whole world; name your own networks."
  }

  validation {
    condition = alltrue([
      for block in var.allowed_cidr_blocks : try(cidrhost(block, 0) == split("/", block)[0], true)
    ])
    error_message = "Each of allowed_cidr_blocks must be a network's own address: 203.0.113.0/24, or 203.0.113.7/32 for one address."
  }
}

variable "create_vpc" {
  description = "Make a network of the cluster's own; else existing_private_subnet_id says where."
  type        = bool
  default     = true
  nullable    = false
}

variable "private_subnet_cidr" {
  description = "Addresses of the cluster's own subnet; null takes some out of the network's pool."
  type        = string
  default     = null

  validation {
    condition     = var.private_subnet_cidr == null || can(cidrnetmask(var.private_subnet_cidr))
    error_message = "private_subnet_cidr must be an IPv4 network, such as 10.20.0.0/20."
  }

  validation {
    condition     = try(tonumber(split("/", var.private_subnet_cidr)[1]) <= 24, true)
    error_message = "private_subnet_cidr is too small for a cluster; take at least a /24."
  }

  validation {
    condition     = var.private_subnet_cidr == null || var.create_vpc
    error_message = "private_subnet_cidr is for a network of the cluster's own; leave it out where create_vpc is false."
  }
}

variable "existing_private_subnet_id" {
  description = "Subnet to put the cluster into where create_vpc is false."
  type        = string
  default     = null

  validation {
    condition     = var.create_vpc == (var.existing_private_subnet_id == null)
    error_message = "existing_private_subnet_id goes with create_vpc = false: give both, or neither."
  }
}

variable "use_public_subnet" {
  description = "Give every node a public address of its own, too; ssh stays limited to allowed_cidr_blocks."
  type        = bool
  default     = false
  nullable    = false
}

variable "head_is_proxy" {
  description = "Let nodes without a public address reach packages through a web proxy on the head."
  type        = bool
  default     = true
  nullable    = false
}

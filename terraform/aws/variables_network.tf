variable "allowed_cidr_blocks" {
  description = "Networks that may reach the head over ssh, such as your own address: [\"203.0.113.7/32\"]. There is no default: opening it to the world is a choice, not an accident."
  type        = list(string)
}

variable "create_vpc" {
  description = "Make a network of the cluster's own; false: use existing_vpc_id and its two subnets."
  type        = bool
  default     = true
}

variable "vpc_cidr" {
  description = "Addresses of the cluster's own network."
  type        = string
  default     = "10.42.0.0/16"
}

variable "public_subnet_cidr" {
  description = "Addresses of the head's subnet, within vpc_cidr."
  type        = string
  default     = "10.42.0.0/24"
}

variable "private_subnet_cidr" {
  description = "Addresses of the nodes' subnet, within vpc_cidr. Every EFA card takes one: seven p5.48xlarge fill a /24."
  type        = string
  default     = "10.42.16.0/20"
}

variable "availability_zone" {
  description = "Zone of the cluster; null: the first zone that offers all its instance types when the cluster is made."
  type        = string
  default     = null
}

variable "additional_zones" {
  description = "More zones to start nodes in, each with the addresses of its own private subnet within vpc_cidr: { \"eu-north-1b\" = \"10.42.128.0/20\" }. Only with EFS and without EFA and a cluster placement group; traffic between zones is slower, and billed."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "existing_vpc_id" {
  description = "The network to use where create_vpc = false."
  type        = string
  default     = null
}

variable "existing_public_subnet_id" {
  description = "The head's subnet where create_vpc = false; it must route to an internet gateway."
  type        = string
  default     = null
}

variable "existing_private_subnet_id" {
  description = "The nodes' subnet where create_vpc = false, in the same zone as the head's; nodes reach the internet by its routes."
  type        = string
  default     = null
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
}

variable "enable_flow_logs" {
  description = "Record the network's connections in CloudWatch (billed by AWS)."
  type        = bool
  default     = false
}

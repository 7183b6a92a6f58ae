variable "cluster_name" {
  description = "Name of the cluster: it begins every name and is the tag `dto:cluster` of everything that is made."
  type        = string
}

variable "region" {
  description = "AWS region, such as eu-north-1; the provider must be set to the same one."
  type        = string
}

variable "instance_type" {
  description = "Instance type of the nodes, such as p5.48xlarge; GPUs and EFA cards are read from AWS's own data."
  type        = string
}

variable "instance_count" {
  description = "How many nodes the cluster starts with; later the head and `dto` change the number within max_instance_count."
  type        = number
}

variable "max_instance_count" {
  description = "How many nodes there may be at most; null: instance_count."
  type        = number
  default     = null
}

variable "fallback_instance_types" {
  description = "Types to take, in this order, where instance_type has no capacity; each with as many GPUs and EFA cards, in the same zones."
  type        = list(string)
  default     = []
}

variable "capacity_type" {
  description = "How nodes are bought: on-demand, spot (cheaper, can be taken away with two minutes' notice) or reserved (capacity_reservation_id)."
  type        = string
  default     = "on-demand"
}

variable "capacity_reservation_id" {
  description = "The on-demand capacity reservation (cr-...) that capacity_type = \"reserved\" starts its nodes in."
  type        = string
  default     = null
}

variable "spot_max_price" {
  description = "Most to pay for a spot node, in dollars an hour; null: up to the on-demand price."
  type        = number
  default     = null
}

variable "head_instance_type" {
  description = "Instance type of the head: on demand, no GPU; it runs the controller and, with shared_storage = \"nfs\", the file server."
  type        = string
  default     = "m6i.large"
}

variable "ami_id" {
  description = "Image of the nodes; null: the newest Ubuntu 24.04 when the cluster is made. It stays the same afterwards."
  type        = string
  default     = null
}

variable "head_ami_id" {
  description = "Image of the head; null: the newest Ubuntu 24.04 when the cluster is made."
  type        = string
  default     = null
}

variable "ami_ssm_parameter" {
  description = "SSM parameter that names the nodes' image instead, such as one of AWS's deep-learning images; null: Ubuntu 24.04."
  type        = string
  default     = null
}

variable "environment" {
  description = "What the cluster is for (dev, prod ...): a tag, nothing else."
  type        = string
  default     = "dev"
}

variable "tags" {
  description = "More tags for everything that is made."
  type        = map(string)
  default     = {}
}

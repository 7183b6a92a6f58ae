variable "capacity_type" {
  description = "How nodes are bought: on-demand, spot (preemptible: cheaper, stopped when Nebius needs them) or reserved (capacity_reservation_id). The head is on demand."
  type        = string
  default     = "on-demand"
  nullable    = false

  validation {
    condition     = contains(["on-demand", "spot", "reserved"], var.capacity_type)
    error_message = "capacity_type must be on-demand, spot or reserved."
  }
}

variable "capacity_reservation_id" {
  description = "The reservation that capacity_type = \"reserved\" takes its nodes from, and from nothing else."
  type        = string
  default     = null

  validation {
    condition     = (var.capacity_type == "reserved") == (var.capacity_reservation_id != null)
    error_message = "capacity_reservation_id belongs to capacity_type = \"reserved\": give both or neither."
  }
}

variable "prices" {
  description = "Price of an hour by instance type, as in your contract; <type>-spot is the price on spot. dto asks nobody for prices."
  type        = map(number)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for price in values(var.prices) : price >= 0])
    error_message = "A price must not be below zero."
  }
}

variable "budget" {
  description = "What the cluster may use: amount (in the currency of prices), hours (node-hours), idle_minutes until a node is switched off."
  type = object({
    amount       = optional(number)
    hours        = optional(number)
    idle_minutes = optional(number)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for limit in values(var.budget) : limit == null ? true : limit > 0])
    error_message = "The limits in budget must be above zero; leave out what is not limited."
  }

  validation {
    condition     = alltrue([for limit in values(var.budget) : limit == null]) || var.head_service_account_id != null
    error_message = "A budget needs head_service_account_id: without it the head cannot switch nodes off."
  }

  validation {
    condition     = var.budget.amount == null || contains(keys(var.prices), "${var.instance_type}${local.is_spot ? "-spot" : ""}") || contains(keys(var.prices), var.instance_type)
    error_message = "budget.amount needs the nodes' price: add instance_type to prices."
  }
}

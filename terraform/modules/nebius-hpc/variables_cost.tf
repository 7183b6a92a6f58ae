variable "use_spot" {
  description = "Make the nodes preemptible: cheaper, and stopped when Nebius needs them. The head never is."
  type        = bool
  default     = false
  nullable    = false
}

variable "reservation_ids" {
  description = "Reservations to take the nodes from, and from nothing else."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = length(var.reservation_ids) == 0 || !var.use_spot
    error_message = "reservation_ids are for nodes that are not preemptible; set use_spot = false."
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
    condition     = var.budget.amount == null || contains(keys(var.prices), "${var.instance_type}${var.use_spot ? "-spot" : ""}") || contains(keys(var.prices), var.instance_type)
    error_message = "budget.amount needs the nodes' price: add instance_type to prices."
  }
}

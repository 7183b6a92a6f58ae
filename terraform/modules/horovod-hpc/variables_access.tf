variable "ssh_public_key_path" {
  description = "Your ssh public key, on the machine that runs Terraform; it may log in as the image's user."
  type        = string
  default     = "~/.ssh/id_ed25519.pub"
}

variable "ssh_public_key" {
  description = "The public key itself, instead of a file with it."
  type        = string
  default     = null

  validation {
    condition     = var.ssh_public_key == null || can(regex("^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp[0-9]+) [A-Za-z0-9+/=]+", var.ssh_public_key))
    error_message = "ssh_public_key must be one line that begins with ssh-ed25519 or ssh-rsa, never a private key."
  }
}

variable "existing_key_pair_name" {
  description = "An EC2 key pair that exists, instead of one made from your public key."
  type        = string
  default     = null
}

variable "existing_private_key_path" {
  description = "The private key on your machine that fits; only its path is kept. null: the public key's path without .pub."
  type        = string
  default     = null

  validation {
    condition     = var.existing_key_pair_name == null || var.existing_private_key_path != null
    error_message = "existing_key_pair_name needs existing_private_key_path, the key on your machine that fits it."
  }

  validation {
    condition     = var.existing_private_key_path == null || !can(regex("-----BEGIN", var.existing_private_key_path))
    error_message = "existing_private_key_path must be the path of the key, never the key itself."
  }
}

variable "ssh_user" {
  description = "The user of the images that the key logs in as."
  type        = string
  default     = "ubuntu"

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_-]{0,31}$", var.ssh_user))
    error_message = "ssh_user must be a login name, such as ubuntu."
  }
}

variable "use_secrets_manager" {
  description = "Keep a secret of yours (secret_value) in AWS Secrets Manager."
  type        = bool
  default     = false
}

variable "secret_value" {
  description = "The secret. It is never written to the state or to a plan; give it by TF_VAR_secret_value."
  type        = string
  default     = null
  ephemeral   = true
  sensitive   = true
}

variable "secret_version" {
  description = "Raise it to store secret_value again: Terraform cannot see whether it changed."
  type        = number
  default     = 1

  validation {
    condition     = var.secret_version >= 1 && floor(var.secret_version) == var.secret_version
    error_message = "secret_version must be a whole number from 1."
  }
}

variable "secret_recovery_window_days" {
  description = "How long a deleted secret can be restored: 7 to 30 days, or 0 for not at all."
  type        = number
  default     = 7

  validation {
    condition     = var.secret_recovery_window_days == 0 || (var.secret_recovery_window_days >= 7 && var.secret_recovery_window_days <= 30)
    error_message = "secret_recovery_window_days must be 0 or from 7 to 30."
  }
}

variable "enable_monitoring" {
  description = "Install Prometheus, Grafana and the exporters for hosts and GPUs on the cluster."
  type        = bool
  default     = false
}

variable "enable_detailed_monitoring" {
  description = "CloudWatch's metrics of the instances every minute instead of every five (billed by AWS)."
  type        = bool
  default     = false
}

variable "prices" {
  description = "What an instance type costs an hour, for estimates and the budget: { \"g5.xlarge\" = 1.1, \"g5.xlarge-spot\" = 0.4 }. You fill it in: no price is asked of AWS."
  type        = map(number)
  default     = {}

  validation {
    condition     = alltrue([for price in values(var.prices) : price >= 0])
    error_message = "prices must not be negative."
  }
}

variable "budget" {
  description = "What the cluster may use: amount (in the currency of prices), hours (node-hours), idle_minutes. At 100 % jobs save and nodes are switched off."
  type = object({
    amount       = optional(number)
    hours        = optional(number)
    idle_minutes = optional(number)
  })
  default = {}

  validation {
    condition     = try(var.budget.amount, null) == null || try(var.budget.amount >= 0, false)
    error_message = "budget.amount must not be negative."
  }

  validation {
    condition     = alltrue([for limit in [var.budget.hours, var.budget.idle_minutes] : try(limit > 0, limit == null)])
    error_message = "budget.hours and budget.idle_minutes must be above 0."
  }
}

variable "monthly_budget_usd" {
  description = "Make an AWS budget that mails monthly_budget_emails at 80 % and 100 % of it; it warns hours late and stops nothing. null: none."
  type        = number
  default     = null

  validation {
    condition     = var.monthly_budget_usd == null || try(var.monthly_budget_usd > 0 && length(var.monthly_budget_emails) > 0, false)
    error_message = "monthly_budget_usd must be above 0 and needs monthly_budget_emails."
  }
}

variable "monthly_budget_emails" {
  description = "Who is told by that AWS budget."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.monthly_budget_emails : can(regex("^[^@ ]+@[^@ ]+$", address))])
    error_message = "monthly_budget_emails must be mail addresses."
  }
}

variable "ssh_public_key_path" {
  description = "Your ssh public key, on the machine that runs Terraform; it may log in as the image's user."
  type        = string
  default     = "~/.ssh/id_ed25519.pub"
}

variable "ssh_public_key" {
  description = "The public key itself, instead of a file with it."
  type        = string
  default     = null
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
}

variable "ssh_user" {
  description = "The user of the images that the key logs in as."
  type        = string
  default     = "ubuntu"
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
}

variable "secret_recovery_window_days" {
  description = "How long a deleted secret can be restored: 7 to 30 days, or 0 for not at all."
  type        = number
  default     = 7
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
}

variable "budget" {
  description = "What the cluster may use: amount (in the currency of prices), hours (node-hours), idle_minutes. At 100 % jobs save and nodes are switched off."
  type = object({
    amount       = optional(number)
    hours        = optional(number)
    idle_minutes = optional(number)
  })
  default = {}
}

variable "monthly_budget_usd" {
  description = "Make an AWS budget that mails monthly_budget_emails at 80 % and 100 % of it; it warns hours late and stops nothing. null: none."
  type        = number
  default     = null
}

variable "monthly_budget_emails" {
  description = "Who is told by that AWS budget."
  type        = list(string)
  default     = []
}

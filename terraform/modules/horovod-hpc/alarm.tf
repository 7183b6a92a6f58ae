# AWS's own budget warns hours late and stops nothing: dto's guard on the head does that.
resource "aws_budgets_budget" "this" {
  for_each     = toset(var.monthly_budget_usd == null ? [] : ["own"])
  name         = var.cluster_name
  budget_type  = "COST"
  limit_amount = tostring(var.monthly_budget_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"
  tags         = local.tags

  cost_filter {
    name   = "TagKeyValue"
    values = [format("user:dto:cluster$%s", var.cluster_name)]
  }

  dynamic "notification" {
    for_each = toset(["80", "100"])
    content {
      comparison_operator        = "GREATER_THAN"
      threshold                  = tonumber(notification.value)
      threshold_type             = "PERCENTAGE"
      notification_type          = "ACTUAL"
      subscriber_email_addresses = var.monthly_budget_emails
    }
  }
}

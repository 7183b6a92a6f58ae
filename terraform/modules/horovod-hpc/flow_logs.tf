locals {
  flow_logs = toset(var.enable_flow_logs ? ["own"] : [])
}

resource "aws_cloudwatch_log_group" "flow" {
  #checkov:skip=CKV_AWS_158:addresses and ports only; AWS's own key protects them
  #checkov:skip=CKV_AWS_338:a cluster lives for weeks; its connections are kept for a month
  for_each          = local.flow_logs
  name              = "/dto/${var.cluster_name}/flow"
  retention_in_days = 30
  tags              = local.tags
}

resource "aws_iam_role" "flow" {
  for_each           = local.flow_logs
  name_prefix        = "${var.cluster_name}-flow-"
  assume_role_policy = data.aws_iam_policy_document.assume["vpc-flow-logs"].json
  tags               = local.tags
}

data "aws_iam_policy_document" "flow" {
  for_each = local.flow_logs

  statement {
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
    resources = ["${aws_cloudwatch_log_group.flow[each.key].arn}:*"]
  }
}

resource "aws_iam_role_policy" "flow" {
  for_each    = local.flow_logs
  name_prefix = "flow-"
  role        = aws_iam_role.flow[each.key].id
  policy      = data.aws_iam_policy_document.flow[each.key].json
}

resource "aws_flow_log" "this" {
  for_each        = local.flow_logs
  vpc_id          = local.vpc_id
  traffic_type    = "ALL"
  iam_role_arn    = aws_iam_role.flow[each.key].arn
  log_destination = aws_cloudwatch_log_group.flow[each.key].arn
  tags            = merge(local.tags, { Name = var.cluster_name })
}

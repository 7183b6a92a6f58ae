# Who may do what: the head looks after its one scaling group, a node says who it is. Neither can
# touch another cluster.

locals {
  bucket_arn    = var.create_s3_bucket ? aws_s3_bucket.this["own"].arn : try(regex("^(arn:[^/]+)", var.s3_bucket_arn)[0], null)
  bucket_folder = var.create_s3_bucket ? "" : try(trim(regex("^arn:[^/]+/(.+)$", var.s3_bucket_arn)[0], "/"), "")
  has_bucket    = var.create_s3_bucket || var.s3_bucket_arn != null
  bucket_keys   = local.bucket_folder == "" ? "*" : "${local.bucket_folder}/*"

  parameter_arn = "arn:${local.partition}:ssm:${var.region}:${local.account}:parameter${local.parameters}"
  hosts         = toset(["head", "node"])
}

data "aws_iam_policy_document" "assume" {
  for_each = toset(var.enable_flow_logs ? ["ec2", "vpc-flow-logs"] : ["ec2"])

  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["${each.value}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "host" {
  for_each           = local.hosts
  name_prefix        = "${var.cluster_name}-${each.key}-"
  description        = "What the ${each.key} of ${var.cluster_name} may ask of AWS"
  assume_role_policy = data.aws_iam_policy_document.assume["ec2"].json
  tags               = local.tags
}

resource "aws_iam_instance_profile" "host" {
  for_each    = local.hosts
  name_prefix = "${var.cluster_name}-${each.key}-"
  role        = aws_iam_role.host[each.key].name
  tags        = local.tags
}

# Host keys can be published once and never overwritten: no host can speak for another.
data "aws_iam_policy_document" "common" {
  statement {
    sid       = "PublishOwnHostKey"
    actions   = ["ssm:PutParameter"]
    resources = ["${local.parameter_arn}/host-keys/*"]
  }

  statement {
    sid       = "NeverReplaceAHostKey"
    effect    = "Deny"
    actions   = ["ssm:PutParameter"]
    resources = ["${local.parameter_arn}/host-keys/*"]
    condition {
      test     = "StringEquals"
      variable = "ssm:Overwrite"
      values   = ["true"]
    }
  }

  statement {
    sid       = "ReadTheHeadsPublicKey"
    actions   = ["ssm:GetParameter"]
    resources = ["${local.parameter_arn}/head-key.pub"]
  }

  dynamic "statement" {
    for_each = local.has_bucket ? ["bucket"] : []
    content {
      sid       = "ListCheckpoints"
      actions   = ["s3:ListBucket"]
      resources = [local.bucket_arn]
      condition {
        test     = "StringLike"
        variable = "s3:prefix"
        values   = local.bucket_folder == "" ? ["*"] : [local.bucket_folder, "${local.bucket_folder}/*"]
      }
    }
  }

  dynamic "statement" {
    for_each = local.has_bucket ? ["bucket"] : []
    content {
      sid       = "KeepCheckpoints"
      actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
      resources = ["${local.bucket_arn}/${local.bucket_keys}"]
    }
  }
}

data "aws_iam_policy_document" "head" {
  statement {
    sid = "RunItsOwnGroup"
    actions = [
      "autoscaling:SetDesiredCapacity",
      "autoscaling:TerminateInstanceInAutoScalingGroup",
    ]
    resources = ["arn:${local.partition}:autoscaling:${var.region}:${local.account}:autoScalingGroup:*:autoScalingGroupName/${local.group_name}"]
  }

  # AWS cannot limit these to one group; they only read.
  statement {
    sid = "SeeWhatRuns"
    actions = [
      "autoscaling:DescribeAutoScalingGroups",
      "autoscaling:DescribeAutoScalingInstances",
      "autoscaling:DescribeScalingActivities",
      "ec2:DescribeInstances",
      "ec2:DescribeInstanceStatus",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "KnowHostKeys"
    actions   = ["ssm:GetParameter", "ssm:GetParameters", "ssm:GetParametersByPath", "ssm:DeleteParameter"]
    resources = ["${local.parameter_arn}/host-keys", "${local.parameter_arn}/host-keys/*"]
  }

  statement {
    sid       = "PublishItsPublicKey"
    actions   = ["ssm:PutParameter"]
    resources = ["${local.parameter_arn}/head-key.pub"]
  }
}

resource "aws_iam_role_policy" "host" {
  for_each    = local.hosts
  name_prefix = "dto-"
  role        = aws_iam_role.host[each.key].id
  policy      = data.aws_iam_policy_document.common.json
}

resource "aws_iam_role_policy" "head" {
  name_prefix = "dto-head-"
  role        = aws_iam_role.host["head"].id
  policy      = data.aws_iam_policy_document.head.json
}

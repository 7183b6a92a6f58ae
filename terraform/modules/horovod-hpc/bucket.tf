locals {
  own_bucket = toset(var.create_s3_bucket ? ["own"] : [])
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:one cluster's own hosts read it; its access log would be a bucket more to look after
  #checkov:skip=CKV_AWS_144:checkpoints can be computed again; a copy in another region costs as much as the first
  #checkov:skip=CKV_AWS_145:AWS's own key needs no grants for whoever reads checkpoints elsewhere
  #checkov:skip=CKV2_AWS_62:nothing waits for what is put into it
  for_each      = local.own_bucket
  bucket_prefix = "${var.cluster_name}-"
  force_destroy = var.s3_force_destroy
  tags          = merge(local.tags, { Name = var.cluster_name })
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = local.own_bucket
  bucket                  = aws_s3_bucket.this[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = local.own_bucket
  bucket   = aws_s3_bucket.this[each.key].id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = local.own_bucket
  bucket   = aws_s3_bucket.this[each.key].id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = local.own_bucket
  bucket   = aws_s3_bucket.this[each.key].id

  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.s3_old_version_days
    }
    expiration {
      expired_object_delete_marker = true
    }
  }

  rule {
    id     = "unfinished-uploads"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

data "aws_iam_policy_document" "bucket" {
  for_each = local.own_bucket

  statement {
    sid       = "EncryptedConnectionsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.this[each.key].arn, "${aws_s3_bucket.this[each.key].arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each   = local.own_bucket
  bucket     = aws_s3_bucket.this[each.key].id
  policy     = data.aws_iam_policy_document.bucket[each.key].json
  depends_on = [aws_s3_bucket_public_access_block.this]
}

# A secret of the user's, if there is one. Its value goes to AWS and nowhere else: not to the state.

locals {
  secret = toset(var.use_secrets_manager ? ["own"] : [])
}

resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV_AWS_149:AWS's own key encrypts it; who may read it is a matter of IAM
  #checkov:skip=CKV2_AWS_57:it is the user's; only they know when to change it
  for_each                = local.secret
  name_prefix             = "${var.cluster_name}-"
  description             = "A secret of ${var.cluster_name}"
  recovery_window_in_days = var.secret_recovery_window_days
  tags                    = local.tags
}

resource "aws_secretsmanager_secret_version" "this" {
  for_each                 = local.secret
  secret_id                = aws_secretsmanager_secret.this[each.key].id
  secret_string_wo         = var.secret_value
  secret_string_wo_version = var.secret_version
}

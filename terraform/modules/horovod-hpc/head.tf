locals {
  key_name = var.existing_key_pair_name != null ? var.existing_key_pair_name : aws_key_pair.this["own"].key_name
  public_key = var.ssh_public_key != null ? var.ssh_public_key : (
    var.existing_key_pair_name == null && fileexists(pathexpand(var.ssh_public_key_path)) ? trimspace(file(pathexpand(var.ssh_public_key_path))) : "none"
  )
  private_key_path = var.existing_private_key_path != null ? var.existing_private_key_path : trimsuffix(var.ssh_public_key_path, ".pub")
  head_name        = "${var.cluster_name}-head"
}

resource "aws_key_pair" "this" {
  for_each        = toset(var.existing_key_pair_name == null ? ["own"] : [])
  key_name_prefix = "${var.cluster_name}-"
  public_key      = local.public_key
  tags            = local.tags
  depends_on      = [terraform_data.checks]
}

resource "aws_eip" "head" {
  domain     = "vpc"
  instance   = aws_instance.head.id
  tags       = merge(local.tags, { Name = local.head_name })
  depends_on = [aws_internet_gateway.this]
}

resource "aws_instance" "head" {
  #checkov:skip=CKV_AWS_126:minute metrics are billed; enable_detailed_monitoring turns them on
  ami                    = local.head_image
  instance_type          = var.head_instance_type
  subnet_id              = local.public_subnet
  vpc_security_group_ids = [aws_security_group.cluster.id, aws_security_group.ssh.id]
  key_name               = local.key_name
  iam_instance_profile   = aws_iam_instance_profile.host["head"].name
  monitoring             = var.enable_detailed_monitoring
  ebs_optimized          = true
  user_data              = local.cloud_init["head"]
  tags                   = merge(local.tags, { Name = local.head_name, "dto:role" = "head" })

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 2 # containers ask, too
    instance_metadata_tags      = "enabled"
  }

  root_block_device {
    volume_type           = "gp3"
    volume_size           = var.head_volume_size
    encrypted             = true
    kms_key_id            = var.kms_key_arn
    delete_on_termination = true
    tags                  = merge(local.tags, { Name = local.head_name })
  }

  # A newer image or start script must not replace the head with all its state.
  lifecycle {
    ignore_changes = [ami, user_data]
  }
}

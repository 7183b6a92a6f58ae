# The cluster as `dto` reads it (`dto cluster setup --from-terraform`). The nodes are not in it: the
# scaling group starts and replaces them; dto asks AWS for those that run.

locals {
  record = {
    version  = 1
    name     = var.cluster_name
    provider = "aws"
    region   = var.region
    ssh = {
      user    = var.ssh_user
      key     = local.private_key_path
      bastion = "${var.ssh_user}@${aws_eip.head.public_ip}"
    }
    head = {
      name           = local.head_name
      address        = aws_instance.head.private_ip
      public_address = aws_eip.head.public_ip
      instance_id    = aws_instance.head.id
      instance_type  = var.head_instance_type
    }
    nodes = []
    node_groups = {
      (local.group) = {
        default  = true
        gpus     = local.gpus_per_node
        gpu_type = local.gpus_per_node > 0 ? local.gpu_type : null
        features = concat(local.is_spot ? ["spot"] : [], local.has_efa ? ["efa"] : [])
      }
    }
    shared = local.shared
    power = {
      on  = "/usr/local/lib/dto/cloud-power on aws {group}"
      off = "/usr/local/lib/dto/cloud-power off aws {instance_id}"
    }
    bucket = var.create_s3_bucket ? aws_s3_bucket.this["own"].bucket : var.s3_bucket_arn
    prices = length(var.prices) > 0 ? var.prices : null
    budget = var.budget
    cloud = {
      account       = local.account
      scaling_group = aws_autoscaling_group.nodes.name
      host_keys     = "${local.parameters}/host-keys"
    }
    monitoring = {
      node_exporter = var.enable_monitoring
      dcgm          = var.enable_monitoring && local.gpus_per_node > 0
      prometheus    = var.enable_monitoring
      grafana       = var.enable_monitoring
    }
  }
}

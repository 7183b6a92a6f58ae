# The cluster's record, as `dto` reads it: `dto cluster setup --from-terraform`.
locals {
  private_key = var.existing_private_key_path != null ? var.existing_private_key_path : trimsuffix(var.vm_ssh_public_key_path, ".pub")
  features = concat(
    local.is_spot ? ["spot"] : [],
    length(nebius_compute_v1_gpu_cluster.this) > 0 ? ["infiniband"] : [],
    try(coalesce(var.node_groups[local.group].features, []), []),
  )
  can_power = var.head_service_account_id != null

  record = {
    version  = 1
    name     = var.cluster_name
    provider = "nebius"
    region   = local.region
    ssh = {
      user    = var.vm_username
      key     = local.private_key
      bastion = var.use_public_subnet ? null : "${var.vm_username}@${local.head_public}"
    }
    head = {
      name           = local.head_name
      address        = local.head_address
      public_address = local.head_public
      instance_id    = nebius_compute_v1_instance.head.id
      instance_type  = var.head_instance_type
    }
    nodes = local.nodes
    node_groups = {
      (local.group) = {
        default   = true
        gpus      = local.gpus
        gpu_type  = local.gpu_type
        partition = try(var.node_groups[local.group].partition, null)
        max_time  = try(var.node_groups[local.group].max_time, null)
        features  = local.features
      }
    }
    shared = { kind = "virtiofs", source = local.shared_tag, path = var.shared_storage_mount_point }
    power = {
      off = local.can_power ? "/usr/local/lib/dto/cloud-power off nebius {instance_id}" : null
      on  = local.can_power ? "/usr/local/lib/dto/cloud-power on nebius {instance_id}" : null
    }
    bucket = local.bucket_name
    prices = length(var.prices) > 0 ? var.prices : null
    budget = var.budget
    cloud  = { account = var.project_id }
    monitoring = {
      node_exporter = var.enable_monitoring
      dcgm          = var.enable_monitoring && local.gpus > 0
      prometheus    = var.enable_monitoring
      grafana       = var.enable_monitoring
    }
  }
}

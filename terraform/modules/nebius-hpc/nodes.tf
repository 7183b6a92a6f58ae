resource "nebius_compute_v1_disk" "node" {
  for_each = local.node_names

  parent_id           = var.project_id
  name                = each.key
  labels              = local.labels
  type                = var.root_volume_type
  size_gibibytes      = var.root_volume_size
  source_image_id     = var.image_id
  source_image_family = var.image_id == null ? { image_family = local.image_family } : null
}

resource "nebius_compute_v1_instance" "node" {
  for_each = local.node_names

  parent_id            = var.project_id
  name                 = each.key
  hostname             = each.key
  labels               = merge(local.labels, { dto-role = "node" })
  service_account_id   = var.service_account_id
  cloud_init_user_data = local.cloud_init[each.key]

  resources   = { platform = local.platform, preset = local.preset }
  gpu_cluster = one([for cluster in nebius_compute_v1_gpu_cluster.this : { id = cluster.id }])
  # Stopped, not deleted, when Nebius needs it; the head starts it again, so Nebius need not try.
  preemptible     = local.is_spot ? { on_preemption = "STOP" } : null
  recovery_policy = local.is_spot ? "FAIL" : null
  reservation_policy = var.capacity_type == "reserved" ? {
    policy          = "STRICT"
    reservation_ids = [var.capacity_reservation_id]
  } : null
  boot_disk = {
    attach_mode   = "READ_WRITE"
    existing_disk = { id = nebius_compute_v1_disk.node[each.key].id }
  }
  filesystems = local.filesystems
  network_interfaces = [{
    name              = "eth0"
    subnet_id         = local.subnet_id
    ip_address        = {}
    public_ip_address = var.use_public_subnet ? {} : null
    security_groups = concat(
      [{ id = nebius_vpc_v1_security_group.members.id }],
      var.use_public_subnet ? [{ id = nebius_vpc_v1_security_group.entrance.id }] : [],
    )
  }]

  lifecycle {
    replace_triggered_by = [nebius_compute_v1_disk.node[each.key].id]
  }
}

locals {
  nodes = [for name in sort(local.node_names) : {
    name           = name
    address        = split("/", nebius_compute_v1_instance.node[name].status.network_interfaces[0].ip_address.address)[0]
    public_address = try(split("/", nebius_compute_v1_instance.node[name].status.network_interfaces[0].public_ip_address.address)[0], null)
    instance_id    = nebius_compute_v1_instance.node[name].id
    instance_type  = var.instance_type
    group          = local.group
    gpus           = local.gpus
    spot           = local.is_spot
  }]
}

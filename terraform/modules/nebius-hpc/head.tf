resource "nebius_compute_v1_disk" "head" {
  parent_id           = var.project_id
  name                = local.head_name
  labels              = local.labels
  type                = var.root_volume_type
  size_gibibytes      = var.root_volume_size
  source_image_family = { image_family = var.head_image_family }
}

resource "nebius_compute_v1_instance" "head" {
  parent_id            = var.project_id
  name                 = local.head_name
  hostname             = local.head_name
  labels               = merge(local.labels, { dto-role = "head" })
  service_account_id   = var.head_service_account_id
  cloud_init_user_data = local.cloud_init[local.head_name]

  resources = { platform = local.head_platform, preset = local.head_preset }
  boot_disk = {
    attach_mode   = "READ_WRITE"
    existing_disk = { id = nebius_compute_v1_disk.head.id }
  }
  filesystems = local.filesystems
  network_interfaces = [{
    name              = "eth0"
    subnet_id         = local.subnet_id
    ip_address        = {}
    public_ip_address = { allocation_id = nebius_vpc_v1_allocation.head.id }
    security_groups = [
      { id = nebius_vpc_v1_security_group.members.id },
      { id = nebius_vpc_v1_security_group.entrance.id },
    ]
  }]

  lifecycle {
    # A disk that is made anew cannot leave a machine that runs.
    replace_triggered_by = [nebius_compute_v1_disk.head.id]
  }
}

locals {
  head_card    = nebius_compute_v1_instance.head.status.network_interfaces[0]
  head_address = split("/", local.head_card.ip_address.address)[0]
  head_public  = split("/", local.head_card.public_ip_address.address)[0]
}

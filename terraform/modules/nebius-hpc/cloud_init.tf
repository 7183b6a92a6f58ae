# The same for every machine but for its name and role; no private key and no secret is in it.
locals {
  roles = merge({ (local.head_name) = "head" }, { for name in local.node_names : name => "node" })
  cloud_init = {
    for name, role in local.roles : name => templatefile("${path.module}/templates/cloud-init.yaml.tftpl", {
      name       = name
      role       = role
      user       = var.vm_username
      public_key = trimspace(file(pathexpand(var.vm_ssh_public_key_path)))
      mount      = var.shared_storage_mount_point
      tag        = local.shared_tag
      type       = role == "head" ? var.head_instance_type : var.instance_type
      capacity   = role == "node" && local.is_spot ? "spot" : "on-demand"
      proxy      = var.head_is_proxy && !var.use_public_subnet
      files      = { for file in fileset("${path.module}/files", "*") : file => file("${path.module}/files/${file}") }
    })
  }
}

# What a host does when it first starts: take its name, publish its ssh host keys, and (a node) let
# the head in. Everything else is done by Ansible.

locals {
  boot_files = {
    "dto-aws"             = { path = "/usr/local/sbin/dto-aws", mode = "0755" }
    "dto-publish.service" = { path = "/etc/systemd/system/dto-publish.service", mode = "0644" }
    "dto-trust.service"   = { path = "/etc/systemd/system/dto-trust.service", mode = "0644" }
    "dto-trust.timer"     = { path = "/etc/systemd/system/dto-trust.timer", mode = "0644" }
  }

  cloud_init = { for role in local.hosts : role => templatefile("${path.module}/files/cloud-init.yaml.tftpl", {
    role    = role
    cluster = var.cluster_name
    group   = local.group
    settings = jsonencode({
      region     = var.region
      endpoint   = "https://ssm.${var.region}.${data.aws_partition.current.dns_suffix}"
      parameters = local.parameters
      user       = var.ssh_user
    })
    files = [for name, file in local.boot_files : merge(file, {
      content = filebase64("${path.module}/files/${name}")
    })]
  }) }
}

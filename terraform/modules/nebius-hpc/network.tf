resource "nebius_vpc_v1_network" "this" {
  for_each = var.create_vpc ? { this = var.cluster_name } : {}

  parent_id = var.project_id
  name      = each.value
  labels    = local.labels
}

resource "nebius_vpc_v1_subnet" "this" {
  for_each = nebius_vpc_v1_network.this

  parent_id  = var.project_id
  network_id = each.value.id
  name       = var.cluster_name
  labels     = local.labels
  ipv4_private_pools = var.private_subnet_cidr == null ? { use_network_pools = true, pools = null } : {
    use_network_pools = false
    pools             = [{ cidrs = [{ cidr = var.private_subnet_cidr }] }]
  }
}

data "nebius_vpc_v1_subnet" "existing" {
  for_each = var.create_vpc ? {} : { this = var.existing_private_subnet_id }

  id = each.value
}

locals {
  network_id = var.create_vpc ? nebius_vpc_v1_network.this["this"].id : data.nebius_vpc_v1_subnet.existing["this"].network_id
  subnet_id  = var.create_vpc ? nebius_vpc_v1_subnet.this["this"].id : data.nebius_vpc_v1_subnet.existing["this"].id
  # A rule takes at most 8 networks.
  entrances = { for number, blocks in chunklist(var.allowed_cidr_blocks, 8) : format("%02d", number + 1) => blocks }
}

# Survives a head that is made anew, so that the cluster keeps its address.
resource "nebius_vpc_v1_allocation" "head" {
  parent_id   = var.project_id
  name        = local.head_name
  labels      = local.labels
  ipv4_public = { subnet_id = local.subnet_id }
}

resource "nebius_vpc_v1_security_group" "members" {
  parent_id  = var.project_id
  network_id = local.network_id
  name       = "${var.cluster_name}-members"
  labels     = local.labels
}

resource "nebius_vpc_v1_security_rule" "from_members" {
  parent_id = nebius_vpc_v1_security_group.members.id
  name      = "${var.cluster_name}-from-members"
  labels    = local.labels
  access    = "ALLOW"
  protocol  = "ANY"
  ingress   = { source_security_group_id = nebius_vpc_v1_security_group.members.id }
}

resource "nebius_vpc_v1_security_rule" "to_members" {
  parent_id = nebius_vpc_v1_security_group.members.id
  name      = "${var.cluster_name}-to-members"
  labels    = local.labels
  access    = "ALLOW"
  protocol  = "ANY"
  egress    = { destination_security_group_id = nebius_vpc_v1_security_group.members.id }
}

resource "nebius_vpc_v1_security_rule" "out" {
  parent_id = nebius_vpc_v1_security_group.members.id
  name      = "${var.cluster_name}-out"
  labels    = local.labels
  access    = "ALLOW"
  protocol  = "ANY"
  egress    = { destination_cidrs = ["0.0.0.0/0"] }
}

# Who comes in from outside: only over ssh, to the head and to nodes with a public address.
resource "nebius_vpc_v1_security_group" "entrance" {
  parent_id  = var.project_id
  network_id = local.network_id
  name       = "${var.cluster_name}-entrance"
  labels     = local.labels
}

resource "nebius_vpc_v1_security_rule" "ssh" {
  for_each = local.entrances

  parent_id = nebius_vpc_v1_security_group.entrance.id
  name      = "${var.cluster_name}-ssh-${each.key}"
  labels    = local.labels
  access    = "ALLOW"
  protocol  = "TCP"
  ingress   = { source_cidrs = each.value, destination_ports = [22] }
}

# One group for all hosts and the shared filesystem; a second one lets people in to the head.

resource "aws_security_group" "cluster" {
  name_prefix = "${var.cluster_name}-cluster-"
  description = "Hosts of ${var.cluster_name} among themselves"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.cluster_name}-cluster" })

  lifecycle {
    create_before_destroy = true
  }
}

# EFA needs both directions open within the group: to everywhere is not enough.
resource "aws_vpc_security_group_ingress_rule" "among" {
  security_group_id            = aws_security_group.cluster.id
  description                  = "Everything from the cluster's own hosts"
  referenced_security_group_id = aws_security_group.cluster.id
  ip_protocol                  = "-1"
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "among" {
  security_group_id            = aws_security_group.cluster.id
  description                  = "Everything to the cluster's own hosts"
  referenced_security_group_id = aws_security_group.cluster.id
  ip_protocol                  = "-1"
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "out" {
  security_group_id = aws_security_group.cluster.id
  description       = "Packages, data and AWS itself"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
  tags              = local.tags
}

resource "aws_security_group" "ssh" {
  name_prefix = "${var.cluster_name}-ssh-"
  description = "People reach the head of ${var.cluster_name} over ssh"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.cluster_name}-ssh" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "ssh" {
  for_each          = toset(var.allowed_cidr_blocks)
  security_group_id = aws_security_group.ssh.id
  description       = "ssh"
  cidr_ipv4         = strcontains(each.value, ":") ? null : each.value
  cidr_ipv6         = strcontains(each.value, ":") ? each.value : null
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
  tags              = local.tags
}

# More zones for the nodes: a private subnet and a way to EFS in each. The head stays in the first.

locals {
  has_more_zones = length(var.additional_zones) > 0
  node_subnets   = concat([local.node_subnet], [for subnet in aws_subnet.more : subnet.id])

  # zones that offer every type of the nodes; the head's is asked for in its own zone alone
  node_zones = setintersection([for type in local.node_types : toset(data.aws_ec2_instance_type_offerings.zones[type].locations)]...)
}

resource "aws_subnet" "more" {
  for_each          = var.additional_zones
  vpc_id            = local.vpc_id
  cidr_block        = each.value
  availability_zone = each.key
  tags              = merge(local.tags, { Name = "${var.cluster_name}-private-${each.key}" })

  lifecycle {
    precondition {
      condition     = contains(local.node_zones, each.key)
      error_message = "additional_zones: ${each.key} does not offer all of ${join(", ", local.node_types)}; zones that do: ${join(", ", sort(tolist(local.node_zones)))}."
    }
    precondition {
      condition     = terraform_data.zone.input != each.key
      error_message = "additional_zones: ${each.key} is the cluster's first zone already; name others, or another availability_zone."
    }
    precondition {
      condition     = !local.has_efa
      error_message = "additional_zones needs enable_efa = false: EFA works within one zone alone."
    }
  }
}

resource "aws_route_table_association" "more" {
  for_each       = aws_subnet.more
  subnet_id      = each.value.id
  route_table_id = aws_route_table.private["own"].id
}

resource "aws_efs_mount_target" "more" {
  for_each        = aws_subnet.more
  file_system_id  = aws_efs_file_system.this["own"].id
  subnet_id       = each.value.id
  security_groups = [aws_security_group.cluster.id]
}

locals {
  disks = concat(
    [{ device_name = var.root_device_name, size = var.root_volume_size, type = var.root_volume_type, iops = var.root_volume_iops, throughput = var.root_volume_throughput }],
    var.additional_ebs_volumes,
  )
  group_name = "${var.cluster_name}-${local.group}"
  node_tags = merge(local.tags, {
    Name        = local.group_name
    "dto:role"  = "node"
    "dto:group" = local.group
  })
}

resource "aws_placement_group" "this" {
  for_each     = toset(var.placement_group_strategy == "none" ? [] : ["own"])
  name         = local.group_name
  strategy     = var.placement_group_strategy
  spread_level = var.placement_group_strategy == "spread" ? "rack" : null
  tags         = local.tags
}

resource "aws_launch_template" "node" {
  #checkov:skip=CKV_AWS_341:two hops, so that containers reach the metadata service, too
  name_prefix = "${var.cluster_name}-node-"
  description = "Nodes of ${var.cluster_name}"
  image_id    = local.node_image
  key_name    = local.key_name
  user_data   = base64encode(local.cloud_init["node"])
  tags        = local.tags

  # the group's overrides name the types; this is the first of them
  instance_type = var.instance_type
  ebs_optimized = true

  iam_instance_profile {
    name = aws_iam_instance_profile.host["node"].name
  }

  monitoring {
    enabled = var.enable_detailed_monitoring
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 2
    instance_metadata_tags      = "enabled"
  }

  # EFA: card 0 has device 0, every other card device 1. Without EFA: one plain card.
  dynamic "network_interfaces" {
    for_each = range(max(1, local.efa_cards))
    content {
      network_card_index          = network_interfaces.value
      device_index                = network_interfaces.value == 0 ? 0 : 1
      interface_type              = local.has_efa ? "efa" : null
      subnet_id                   = local.has_more_zones ? null : local.node_subnet # else the group chooses
      security_groups             = [aws_security_group.cluster.id]
      delete_on_termination       = true
      associate_public_ip_address = network_interfaces.value == 0 && local.efa_cards < 2 ? tostring(var.use_public_subnet) : null
    }
  }

  dynamic "placement" {
    for_each = aws_placement_group.this
    content {
      group_name = placement.value.name
    }
  }

  dynamic "capacity_reservation_specification" {
    for_each = var.capacity_type == "reserved" ? [var.capacity_reservation_id] : []
    content {
      capacity_reservation_target {
        capacity_reservation_id = capacity_reservation_specification.value
      }
    }
  }

  dynamic "block_device_mappings" {
    for_each = local.disks
    content {
      device_name = block_device_mappings.value.device_name
      ebs {
        volume_type           = block_device_mappings.value.type
        volume_size           = block_device_mappings.value.size
        iops                  = block_device_mappings.value.iops
        throughput            = block_device_mappings.value.throughput
        encrypted             = "true"
        kms_key_id            = var.kms_key_arn
        delete_on_termination = "true"
      }
    }
  }

  # what the group starts carries the tags, its disks and cards, too
  dynamic "tag_specifications" {
    for_each = toset(["instance", "volume", "network-interface"])
    content {
      resource_type = tag_specifications.value
      tags          = local.node_tags
    }
  }
}

resource "aws_autoscaling_group" "nodes" {
  name                      = local.group_name
  min_size                  = 0
  max_size                  = local.max_count
  desired_capacity          = var.instance_count
  vpc_zone_identifier       = local.node_subnets
  health_check_type         = "EC2"
  health_check_grace_period = 600
  # nodes join when the cloud has them; a GPU that is not there for an hour fails no apply
  wait_for_capacity_timeout = "0"
  # or AWS ends nodes at work to have as many in each zone
  suspended_processes = local.has_more_zones ? ["AZRebalance"] : null

  # Spot instances of a group are bought once and terminated when taken away; it starts new ones.
  mixed_instances_policy {
    instances_distribution {
      on_demand_base_capacity                  = 0
      on_demand_percentage_above_base_capacity = local.is_spot ? 0 : 100
      on_demand_allocation_strategy            = "prioritized"
      spot_allocation_strategy                 = "capacity-optimized-prioritized"
      spot_max_price                           = var.spot_max_price == null ? "" : tostring(var.spot_max_price)
    }

    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.node.id
        version            = aws_launch_template.node.latest_version
      }

      dynamic "override" {
        for_each = local.node_types
        content {
          instance_type = override.value
        }
      }
    }
  }

  dynamic "tag" {
    for_each = local.node_tags
    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  depends_on = [terraform_data.checks, aws_iam_role_policy.host, aws_route.private, aws_route.public, aws_route_table_association.more, aws_efs_mount_target.more]

  # the head and dto change how many there are
  lifecycle {
    ignore_changes = [desired_capacity]
  }
}

# What AWS itself knows of the instance types, and what follows from it.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

data "aws_ec2_instance_type" "node" {
  for_each      = toset(local.node_types)
  instance_type = each.value
}

data "aws_ec2_instance_type" "head" {
  instance_type = var.head_instance_type
}

data "aws_ec2_instance_type_offerings" "zones" {
  for_each      = toset(concat(local.node_types, [var.head_instance_type]))
  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = [each.value]
  }
}

locals {
  tags       = merge(var.tags, { "dto:cluster" = var.cluster_name, "environment" = var.environment })
  parameters = "/dto/${var.cluster_name}"
  partition  = data.aws_partition.current.partition
  account    = data.aws_caller_identity.current.account_id

  node_types = concat([var.instance_type], var.fallback_instance_types)
  node       = data.aws_ec2_instance_type.node[var.instance_type]
  node_arch  = contains(local.node.supported_architectures, "arm64") ? "arm64" : "amd64"
  head_arch  = contains(data.aws_ec2_instance_type.head.supported_architectures, "arm64") ? "arm64" : "amd64"

  # { "p5.48xlarge" = { count = 8, name = "h100" } }; a type without GPUs has none
  gpus = { for type, data in data.aws_ec2_instance_type.node : type => {
    count = sum(concat([0], [for gpu in data.gpus : gpu.count]))
    name  = lower(replace(try(one(data.gpus).name, "gpu"), "/[^A-Za-z0-9]+/", "-"))
  } }
  gpus_per_node = local.gpus[var.instance_type].count
  gpu_type      = length(distinct(values(local.gpus)[*].name)) == 1 ? local.gpus[var.instance_type].name : "gpu"
  group         = local.gpus_per_node > 0 ? "gpu" : "cpu"

  has_efa   = coalesce(var.enable_efa, local.node.efa_supported && !var.use_public_subnet)
  efa_cards = local.has_efa ? max(1, coalesce(local.node.efa_maximum_interfaces, 1)) : 0
  max_count = coalesce(var.max_instance_count, var.instance_count)
  is_spot   = var.capacity_type == "spot"

  # zones that offer every type of the cluster
  zones = sort(tolist(setintersection([for offer in data.aws_ec2_instance_type_offerings.zones : toset(offer.locations)]...)))
}

# The zone that was first chosen stays, even where AWS lists others later: a subnet cannot move.
resource "terraform_data" "zone" {
  input = var.availability_zone != null ? var.availability_zone : try(local.zones[0], "none")

  lifecycle {
    ignore_changes = [input]

    precondition {
      condition     = length(local.zones) > 0
      error_message = "No zone of ${var.region} offers all of ${join(", ", keys(data.aws_ec2_instance_type_offerings.zones))}; take other types or another region."
    }
    precondition {
      condition     = var.availability_zone == null || contains(local.zones, coalesce(var.availability_zone, "none"))
      error_message = "${coalesce(var.availability_zone, "none")} does not offer all of ${join(", ", keys(data.aws_ec2_instance_type_offerings.zones))}; zones that do: ${join(", ", local.zones)}."
    }
  }
}

# What no single variable can tell: whether the instance types fit what is asked of them.
resource "terraform_data" "checks" {
  lifecycle {
    precondition {
      condition     = data.aws_region.current.name == var.region
      error_message = "region is ${var.region}, but the provider works in ${data.aws_region.current.name}; set both to the same."
    }
    precondition {
      condition     = !local.has_efa || alltrue([for data in data.aws_ec2_instance_type.node : data.efa_supported])
      error_message = "enable_efa: not all of ${join(", ", local.node_types)} have EFA; take other types, or enable_efa = false."
    }
    precondition {
      condition     = !local.has_efa || length(distinct([for data in data.aws_ec2_instance_type.node : data.efa_maximum_interfaces])) == 1
      error_message = "${join(", ", local.node_types)} have different numbers of EFA cards; one launch template fits only types with the same."
    }
    precondition {
      condition     = !(local.has_efa && var.use_public_subnet)
      error_message = "enable_efa excludes use_public_subnet: EFA nodes get no public address, they belong in the private subnet."
    }
    precondition {
      condition     = length(distinct(values(local.gpus)[*].count)) == 1
      error_message = "${join(", ", local.node_types)} have different numbers of GPUs; the nodes of a group must have the same."
    }
    precondition {
      condition     = length(distinct([for data in data.aws_ec2_instance_type.node : join(",", sort(data.supported_architectures))])) == 1
      error_message = "${join(", ", local.node_types)} have different processors; one image fits only types with the same."
    }
    precondition {
      condition     = !local.is_spot || alltrue([for data in data.aws_ec2_instance_type.node : contains(data.supported_usages_classes, "spot")])
      error_message = "AWS does not sell all of ${join(", ", local.node_types)} as spot; take other types, or capacity_type = \"on-demand\"."
    }
    precondition {
      condition     = var.placement_group_strategy == "none" || alltrue([for data in data.aws_ec2_instance_type.node : contains(data.supported_placement_strategies, var.placement_group_strategy)])
      error_message = "Not all of ${join(", ", local.node_types)} can be in a ${var.placement_group_strategy} placement group; set placement_group_strategy = \"none\"."
    }
    precondition {
      condition     = !var.create_vpc || pow(2, 32 - tonumber(split("/", local.node_cidr)[1])) - 5 >= local.max_count * max(1, local.efa_cards) + 4
      error_message = "${local.node_cidr} has too few addresses for ${local.max_count} nodes with ${max(1, local.efa_cards)} network cards each; make that subnet larger."
    }
    precondition {
      condition     = var.create_vpc || try(data.aws_subnet.existing["public"].availability_zone == data.aws_subnet.existing["private"].availability_zone, false)
      error_message = "existing_public_subnet_id and existing_private_subnet_id lie in different zones; the head and its nodes share one."
    }
    precondition {
      condition     = var.create_vpc || alltrue([for subnet in data.aws_subnet.existing : subnet.vpc_id == var.existing_vpc_id])
      error_message = "existing_public_subnet_id and existing_private_subnet_id must be subnets of existing_vpc_id."
    }
    precondition {
      condition     = var.existing_key_pair_name != null || var.ssh_public_key != null || fileexists(pathexpand(var.ssh_public_key_path))
      error_message = "There is no ssh public key at ${var.ssh_public_key_path}: make one (ssh-keygen -t ed25519), or set ssh_public_key_path."
    }
    precondition {
      condition     = !anytrue([for line in [local.public_key] : can(regex("PRIVATE KEY", line))])
      error_message = "ssh_public_key_path names a private key; name the file that ends in .pub."
    }
  }
}

# Nodes in more than one zone, and what does not go with that.

mock_provider "aws" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  cluster_name             = "lab"
  region                   = "eu-north-1"
  instance_type            = "p4d.24xlarge"
  instance_count           = 2
  allowed_cidr_blocks      = ["203.0.113.7/32"]
  ssh_public_key           = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7r8nXl0Zb3mF0ZkZ0O2v0n5h1u2Jq3h0b4p8wR9tKX me"
  enable_efa               = false
  placement_group_strategy = "none"
  additional_zones         = { "eu-north-1b" = "10.42.128.0/20" }
}

override_resource {
  target          = aws_subnet.private
  override_during = plan
  values          = { id = "subnet-0000000000000000a" }
}

override_resource {
  target          = aws_subnet.more
  override_during = plan
  values          = { id = "subnet-0000000000000000b" }
}

run "each_zone_has_a_subnet_and_a_way_to_the_files" {
  command = plan

  assert {
    condition     = aws_subnet.more["eu-north-1b"].availability_zone == "eu-north-1b" && aws_subnet.more["eu-north-1b"].cidr_block == "10.42.128.0/20" && terraform_data.zone.input == "eu-north-1a"
    error_message = "a subnet with the addresses that were given, beside that of the first zone"
  }
  assert {
    condition     = keys(aws_efs_mount_target.more) == ["eu-north-1b"] && keys(aws_route_table_association.more) == ["eu-north-1b"]
    error_message = "the filesystem and the way out are reached from there"
  }
  assert {
    condition     = aws_autoscaling_group.nodes.vpc_zone_identifier == toset(["subnet-0000000000000000a", "subnet-0000000000000000b"]) && aws_launch_template.node.network_interfaces[0].subnet_id == null
    error_message = "the group chooses the subnet, not the template"
  }
  assert {
    condition     = aws_autoscaling_group.nodes.suspended_processes == toset(["AZRebalance"])
    error_message = "AWS must not end nodes at work to have as many in each zone"
  }
}

run "one_zone_is_as_it_was" {
  command = plan
  variables {
    additional_zones = {}
  }

  assert {
    condition     = length(aws_subnet.more) + length(aws_efs_mount_target.more) == 0 && aws_autoscaling_group.nodes.vpc_zone_identifier == toset(["subnet-0000000000000000a"])
    error_message = "nothing more"
  }
  assert {
    condition     = aws_launch_template.node.network_interfaces[0].subnet_id == "subnet-0000000000000000a" && aws_autoscaling_group.nodes.suspended_processes == null
    error_message = "the template names the subnet"
  }
}

run "a_head_whose_type_is_in_one_zone_only" {
  command = plan
  override_data {
    target = data.aws_ec2_instance_type_offerings.zones["m6i.large"]
    values = { locations = ["eu-north-1a"] }
  }

  assert {
    condition     = keys(aws_subnet.more) == ["eu-north-1b"]
    error_message = "the head stays in the first zone, so the others need not offer its type"
  }
}

run "not_with_efa" {
  command = plan
  variables {
    enable_efa = null # p4d has it
  }
  expect_failures = [aws_subnet.more]
}

run "not_with_a_filesystem_of_one_zone_or_a_cluster_placement_group" {
  command = plan
  variables {
    shared_storage           = "nfs"
    placement_group_strategy = "cluster"
  }
  expect_failures = [var.additional_zones]
}

run "not_with_a_reservation" {
  command = plan
  variables {
    capacity_type           = "reserved"
    capacity_reservation_id = "cr-0123456789abcdef0"
  }
  expect_failures = [var.additional_zones]
}

run "not_in_the_public_subnet" {
  command = plan
  variables {
    use_public_subnet = true
  }
  expect_failures = [var.additional_zones]
}

run "not_in_somebody_elses_network" {
  command = plan
  variables {
    create_vpc                 = false
    existing_vpc_id            = "vpc-0123456789abcdef0"
    existing_public_subnet_id  = "subnet-0123456789abcdef0"
    existing_private_subnet_id = "subnet-0123456789abcdef1"
  }
  expect_failures = [var.additional_zones]
}

run "a_zone_of_another_region" {
  command = plan
  variables {
    additional_zones = { "us-east-1a" = "10.42.128.0/20" }
  }
  expect_failures = [var.additional_zones]
}

run "the_zone_that_the_cluster_has_already" {
  command = plan
  variables {
    additional_zones = { "eu-north-1a" = "10.42.128.0/20" }
  }
  expect_failures = [aws_subnet.more]
}

run "a_zone_without_the_type" {
  command = plan
  variables {
    additional_zones = { "eu-north-1c" = "10.42.128.0/20" }
  }
  expect_failures = [aws_subnet.more]
}

run "addresses_outside_the_network" {
  command = plan
  variables {
    additional_zones = { "eu-north-1b" = "10.99.128.0/20" }
  }
  expect_failures = [var.additional_zones]
}

run "addresses_that_the_nodes_have_already" {
  command = plan
  variables {
    additional_zones = { "eu-north-1b" = "10.42.24.0/24" }
  }
  expect_failures = [var.additional_zones]
}

run "addresses_that_another_zone_has" {
  command = plan
  variables {
    additional_zones = { "eu-north-1b" = "10.42.128.0/20", "eu-north-1c" = "10.42.136.0/24" }
  }
  expect_failures = [var.additional_zones]
}

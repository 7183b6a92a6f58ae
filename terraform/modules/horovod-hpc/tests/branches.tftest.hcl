# Each choice that a variable offers, and what follows from it.

mock_provider "aws" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  cluster_name        = "lab"
  region              = "eu-north-1"
  instance_type       = "p4d.24xlarge"
  instance_count      = 2
  allowed_cidr_blocks = ["203.0.113.7/32"]
  ssh_public_key      = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7r8nXl0Zb3mF0ZkZ0O2v0n5h1u2Jq3h0b4p8wR9tKX me"
}

run "the_five_answers_are_enough" {
  command = plan

  assert {
    condition     = output.dto_cluster.node_groups.gpu == { default = true, gpus = 8, gpu_type = "a100", features = tolist(["efa"]) }
    error_message = "GPUs and EFA come from the type's own data"
  }
  assert {
    condition     = output.total_gpus == 16 && output.gpus_per_instance == 8
    error_message = "two nodes with eight GPUs have sixteen"
  }
  assert {
    condition     = output.dto_cluster.ssh == { user = "ubuntu", key = "~/.ssh/id_ed25519", bastion = "ubuntu@198.51.100.7" }
    error_message = "the record names the private key by its path and the head as the way in"
  }
  assert {
    condition     = output.dto_cluster.head == { name = "lab-head", address = "10.42.0.4", public_address = "198.51.100.7", instance_id = "i-0123456789abcdef0", instance_type = "m6i.large" }
    error_message = "the record says where the head is"
  }
  assert {
    condition     = output.dto_cluster.cloud == { account = "123456789012", scaling_group = "lab-gpu", host_keys = "/dto/lab/host-keys" }
    error_message = "the record says what the head looks after"
  }
  assert {
    condition     = output.dto_cluster.power == { on = "/usr/local/lib/dto/cloud-power on aws {group}", off = "/usr/local/lib/dto/cloud-power off aws {instance_id}" }
    error_message = "the head can switch nodes on and off"
  }
  assert {
    condition     = output.dto_cluster.shared == { kind = "efs", path = "/shared", source = "fs-01.efs.eu-north-1.amazonaws.com:/" }
    error_message = "EFS is the shared filesystem"
  }
  assert {
    condition     = output.dto_cluster.bucket == "lab-1" && output.dto_cluster.prices == null && length(output.dto_cluster.nodes) == 0
    error_message = "a bucket, no prices, no nodes: dto asks AWS for them"
  }
  assert {
    condition     = !anytrue(values(output.dto_cluster.monitoring)) && output.cluster_name == "lab" && output.cluster_region == "eu-north-1"
    error_message = "nothing is monitored that nobody asked for"
  }
  assert {
    condition     = aws_launch_template.node.metadata_options[0].http_tokens == "required" && aws_launch_template.node.metadata_options[0].http_put_response_hop_limit == 2
    error_message = "IMDSv2 on the nodes"
  }
  assert {
    condition     = aws_instance.head.metadata_options[0].http_tokens == "required" && aws_instance.head.root_block_device[0].encrypted
    error_message = "IMDSv2 and an encrypted disk on the head"
  }
  assert {
    condition     = alltrue([for disk in aws_launch_template.node.block_device_mappings : disk.ebs[0].encrypted == "true"])
    error_message = "encrypted disks on the nodes"
  }
  assert {
    condition     = [for card in aws_launch_template.node.network_interfaces : "${card.network_card_index}/${card.device_index}/${card.interface_type}"] == ["0/0/efa", "1/1/efa", "2/1/efa", "3/1/efa"]
    error_message = "card 0 is device 0, the others are device 1, all are EFA"
  }
  assert {
    condition     = aws_placement_group.this["own"].strategy == "cluster" && output.placement_group_name == "lab-gpu"
    error_message = "close together"
  }
  assert {
    condition     = terraform_data.zone.input == "eu-north-1a"
    error_message = "the first zone that has all types"
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_vpc_endpoint.s3) == 1
    error_message = "nodes reach the internet, and the bucket without it"
  }
  assert {
    condition     = !aws_s3_bucket.this["own"].force_destroy && aws_s3_bucket_public_access_block.this["own"].restrict_public_buckets
    error_message = "the bucket is private and not deleted with its data"
  }
  assert {
    condition     = aws_autoscaling_group.nodes.min_size == 0 && aws_autoscaling_group.nodes.max_size == 2 && aws_autoscaling_group.nodes.mixed_instances_policy[0].instances_distribution[0].on_demand_percentage_above_base_capacity == 100
    error_message = "on demand, as many as asked for"
  }
  assert {
    condition     = terraform_data.image["node"].input == "ami-0aaaaaaaaaaaaaaa0" && terraform_data.image["head"].input == "ami-0aaaaaaaaaaaaaaa0" && data.aws_ssm_parameter.image["node"].name == "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
    error_message = "Ubuntu 24.04 on the head and the nodes"
  }
  assert {
    condition     = length(base64decode(aws_launch_template.node.user_data)) < 16384 && strcontains(base64decode(aws_launch_template.node.user_data), "lab-gpu-{{ v1.instance_id[-8:] }}")
    error_message = "the start script fits, and a node's name follows from its instance"
  }
  assert {
    condition     = !strcontains(base64decode(aws_launch_template.node.user_data), "PRIVATE KEY") && startswith(aws_instance.head.user_data, "#cloud-config")
    error_message = "no private key in the start script"
  }
  assert {
    condition     = !output.use_secrets_manager && output.secret_name == null && output.cloudwatch_log_group == null && length(aws_budgets_budget.this) == 0
    error_message = "nothing that was not asked for"
  }
}

run "spot_with_a_fallback_and_a_limit" {
  command = plan
  variables {
    capacity_type           = "spot"
    spot_max_price          = 12.5
    fallback_instance_types = ["p4de.24xlarge"]
    max_instance_count      = 8
    prices                  = { "p4d.24xlarge-spot" = 12 }
    budget                  = { amount = 100, idle_minutes = 30 }
  }

  assert {
    condition     = aws_autoscaling_group.nodes.mixed_instances_policy[0].instances_distribution[0].on_demand_percentage_above_base_capacity == 0 && aws_autoscaling_group.nodes.mixed_instances_policy[0].instances_distribution[0].spot_max_price == "12.5"
    error_message = "all of the nodes are spot, up to that price"
  }
  assert {
    condition     = [for one in aws_autoscaling_group.nodes.mixed_instances_policy[0].launch_template[0].override : one.instance_type] == ["p4d.24xlarge", "p4de.24xlarge"]
    error_message = "first the one type, then the other"
  }
  assert {
    condition     = length(aws_launch_template.node.instance_market_options) == 0
    error_message = "the group buys spot, not the template: no request outlives it"
  }
  assert {
    condition     = contains(output.dto_cluster.node_groups.gpu.features, "spot") && output.worker_nodes.capacity_type == "spot"
    error_message = "jobs can ask for spot, or keep off it"
  }
  assert {
    condition     = aws_autoscaling_group.nodes.max_size == 8 && output.worker_nodes.count == 2
    error_message = "it may grow"
  }
  assert {
    condition     = output.dto_cluster.prices["p4d.24xlarge-spot"] == 12 && output.dto_cluster.budget.amount == 100 && output.dto_cluster.budget.hours == null
    error_message = "prices and budget go into the record"
  }
}

run "reserved_capacity" {
  command = plan
  variables {
    capacity_type           = "reserved"
    capacity_reservation_id = "cr-0123456789abcdef0"
    availability_zone       = "eu-north-1b"
  }

  assert {
    condition     = aws_launch_template.node.capacity_reservation_specification[0].capacity_reservation_target[0].capacity_reservation_id == "cr-0123456789abcdef0"
    error_message = "nodes start in the reservation"
  }
  assert {
    condition     = terraform_data.zone.input == "eu-north-1b"
    error_message = "in its zone"
  }
}

run "no_efa_where_it_is_switched_off" {
  command = plan
  variables {
    enable_efa               = false
    placement_group_strategy = "none"
  }

  assert {
    condition     = [for card in aws_launch_template.node.network_interfaces : coalesce(card.interface_type, "plain")] == ["plain"] && length(output.dto_cluster.node_groups.gpu.features) == 0
    error_message = "one plain card"
  }
  assert {
    condition     = length(aws_placement_group.this) == 0 && length(aws_launch_template.node.placement) == 0 && output.placement_group_name == null
    error_message = "no placement group"
  }
}

run "spread_and_partition_are_strategies_too" {
  command = plan
  variables {
    placement_group_strategy = "spread"
  }

  assert {
    condition     = aws_placement_group.this["own"].spread_level == "rack"
    error_message = "spread over racks"
  }
}

run "a_network_that_exists" {
  command = plan
  variables {
    create_vpc                 = false
    existing_vpc_id            = "vpc-0123456789abcdef0"
    existing_public_subnet_id  = "subnet-0123456789abcdef0"
    existing_private_subnet_id = "subnet-0123456789abcdef1"
  }

  assert {
    condition     = length(aws_vpc.this) + length(aws_subnet.private) + length(aws_nat_gateway.this) + length(aws_route.public) + length(aws_eip.nat) == 0
    error_message = "nothing of the network is ours"
  }
  assert {
    condition     = output.vpc_id == "vpc-0123456789abcdef0" && output.public_subnet_id == "subnet-0123456789abcdef0" && output.private_subnet_id == "subnet-0123456789abcdef1"
    error_message = "the subnets that were named"
  }
}

run "nodes_in_the_public_subnet" {
  command = plan
  variables {
    use_public_subnet = true
    vpc_cidr          = "10.50.0.0/16"
    # other blocks than the default, so that they are seen to be used
    public_subnet_cidr  = "10.50.1.0/24"
    private_subnet_cidr = "10.50.16.0/20"
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 0 && aws_launch_template.node.network_interfaces[0].associate_public_ip_address == "true"
    error_message = "public addresses instead of a NAT gateway"
  }
  assert {
    condition     = output.worker_nodes.efa_cards == 0 && aws_vpc.this["own"].cidr_block == "10.50.0.0/16"
    error_message = "and no EFA"
  }
}

run "no_nat_gateway" {
  command = plan
  variables {
    create_nat_gateway = false
    enable_flow_logs   = true
  }

  assert {
    condition     = length(aws_nat_gateway.this) + length(aws_eip.nat) + length(aws_route.private) == 0
    error_message = "nothing to pay for"
  }
  assert {
    condition     = output.cloudwatch_log_group == "/dto/lab/flow" && length(aws_flow_log.this) == 1
    error_message = "connections are recorded"
  }
}

# Storage, access and what else can be chosen.

mock_provider "aws" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  cluster_name        = "lab"
  region              = "eu-north-1"
  instance_type       = "p4d.24xlarge"
  instance_count      = 2
  allowed_cidr_blocks = ["203.0.113.7/32", "2001:db8::/48"]
  ssh_public_key      = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7r8nXl0Zb3mF0ZkZ0O2v0n5h1u2Jq3h0b4p8wR9tKX me"
}

run "ssh_from_both_kinds_of_networks" {
  command = plan

  assert {
    condition     = aws_vpc_security_group_ingress_rule.ssh["203.0.113.7/32"].cidr_ipv4 == "203.0.113.7/32" && aws_vpc_security_group_ingress_rule.ssh["2001:db8::/48"].cidr_ipv6 == "2001:db8::/48"
    error_message = "IPv4 and IPv6"
  }
  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.ssh : rule.from_port == 22 && rule.to_port == 22])
    error_message = "ssh and nothing else"
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.among.ip_protocol == "-1" && aws_vpc_security_group_egress_rule.among.ip_protocol == "-1"
    error_message = "EFA needs all traffic within the group, both ways"
  }
}

run "lustre" {
  command = plan
  variables {
    shared_storage             = "fsx-lustre"
    shared_storage_mount_point = "/data"
    fsx_storage_capacity       = 4800
    fsx_throughput_per_tib     = 500
    kms_key_arn                = "arn:aws:kms:eu-north-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }

  assert {
    condition     = output.dto_cluster.shared == { kind = "fsx-lustre", path = "/data", source = "fs-02.fsx.eu-north-1.amazonaws.com@tcp:/abcdefgh" } && length(aws_efs_file_system.this) == 0
    error_message = "Lustre, and no EFS"
  }
  assert {
    condition     = aws_fsx_lustre_file_system.this["own"].storage_capacity == 4800 && aws_fsx_lustre_file_system.this["own"].per_unit_storage_throughput == 500
    error_message = "as large and as fast as asked for"
  }
  assert {
    condition     = aws_fsx_lustre_file_system.this["own"].kms_key_id == var.kms_key_arn && aws_instance.head.root_block_device[0].kms_key_id == var.kms_key_arn && aws_launch_template.node.block_device_mappings[0].ebs[0].kms_key_id == var.kms_key_arn
    error_message = "all disks with the user's own key"
  }
}

run "the_heads_own_disk" {
  command = plan
  variables {
    shared_storage     = "nfs"
    head_volume_size   = 500
    head_instance_type = "m6i.2xlarge"
  }

  assert {
    condition     = output.dto_cluster.shared == { kind = "nfs", path = "/shared", source = null } && length(aws_efs_file_system.this) + length(aws_fsx_lustre_file_system.this) == 0
    error_message = "nothing but the head"
  }
  assert {
    condition     = aws_instance.head.root_block_device[0].volume_size == 500 && aws_instance.head.instance_type == "m6i.2xlarge"
    error_message = "with room"
  }
}

run "disks_of_the_nodes" {
  command = plan
  variables {
    root_volume_type       = "gp3"
    root_volume_size       = 400
    root_volume_iops       = 6000
    root_volume_throughput = 500
    additional_ebs_volumes = [{ device_name = "/dev/sdf", size = 1000, type = "io2", iops = 10000 }]
  }

  assert {
    condition = [for disk in aws_launch_template.node.block_device_mappings : "${disk.device_name} ${disk.ebs[0].volume_type} ${disk.ebs[0].volume_size} ${disk.ebs[0].iops}"] == [
      "/dev/sda1 gp3 400 6000", "/dev/sdf io2 1000 10000",
    ]
    error_message = "two disks as asked for"
  }
  assert {
    condition     = aws_launch_template.node.block_device_mappings[0].ebs[0].throughput == 500
    error_message = "with that throughput"
  }
}

run "a_bucket_that_exists" {
  command = plan
  variables {
    create_s3_bucket = false
    s3_bucket_arn    = "arn:aws:s3:::ours/team"
  }

  assert {
    condition     = length(aws_s3_bucket.this) == 0 && output.dto_cluster.bucket == "arn:aws:s3:::ours/team"
    error_message = "no bucket of our own"
  }
  assert {
    condition     = local.bucket_arn == "arn:aws:s3:::ours" && local.bucket_keys == "team/*"
    error_message = "hosts stay within its folder"
  }
}

run "no_bucket_at_all" {
  command = plan
  variables {
    create_s3_bucket = false
  }

  assert {
    condition     = output.dto_cluster.bucket == null && !local.has_bucket
    error_message = "none"
  }
}

run "a_bucket_that_may_go_with_its_data" {
  command = plan
  variables {
    s3_force_destroy    = true
    s3_old_version_days = 30
  }

  assert {
    condition     = aws_s3_bucket.this["own"].force_destroy && aws_s3_bucket_lifecycle_configuration.this["own"].rule[0].noncurrent_version_expiration[0].noncurrent_days == 30
    error_message = "as asked for"
  }
}

run "images_of_ones_own" {
  command = plan
  variables {
    ami_id           = "ami-0123456789abcdef0"
    root_device_name = "/dev/xvda"
    head_ami_id      = "ami-0123456789abcdef1"
    ssh_user         = "debian"
  }

  assert {
    condition     = aws_launch_template.node.image_id == "ami-0123456789abcdef0" && aws_instance.head.ami == "ami-0123456789abcdef1" && length(data.aws_ssm_parameter.image) == 0
    error_message = "the images that were named, and no look-up"
  }
  assert {
    condition     = output.dto_cluster.ssh.user == "debian" && strcontains(base64decode(aws_launch_template.node.user_data), "\"user\":\"debian\"")
    error_message = "and their user"
  }
  assert {
    condition     = aws_launch_template.node.block_device_mappings[0].device_name == "/dev/xvda"
    error_message = "and their root disk"
  }
}

run "an_image_by_its_parameter" {
  command = plan
  variables {
    ami_ssm_parameter = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
  }

  assert {
    condition     = data.aws_ssm_parameter.image["node"].name == var.ami_ssm_parameter && data.aws_ssm_parameter.image["head"].name != var.ami_ssm_parameter
    error_message = "for the nodes, not for the head"
  }
}

run "a_key_pair_that_exists" {
  command = plan
  variables {
    ssh_public_key            = null
    existing_key_pair_name    = "mine"
    existing_private_key_path = "~/.ssh/mine"
  }

  assert {
    condition     = length(aws_key_pair.this) == 0 && output.ssh_key_name == "mine" && output.dto_cluster.ssh.key == "~/.ssh/mine"
    error_message = "no other key pair"
  }
}

run "a_key_in_a_file" {
  command = plan
  variables {
    ssh_public_key      = null
    ssh_public_key_path = "./tests/mocks/key.pub"
  }

  assert {
    condition     = startswith(aws_key_pair.this["own"].public_key, "ssh-ed25519 ") && output.dto_cluster.ssh.key == "./tests/mocks/key"
    error_message = "the file's key, and beside it the private one"
  }
}

run "a_secret_that_terraform_forgets" {
  command = plan
  variables {
    use_secrets_manager         = true
    secret_value                = "s3cret"
    secret_version              = 2
    secret_recovery_window_days = 0
  }

  assert {
    condition     = aws_secretsmanager_secret.this["own"].recovery_window_in_days == 0 && aws_secretsmanager_secret_version.this["own"].secret_string_wo_version == 2
    error_message = "kept, and gone at once when destroyed"
  }
  assert {
    condition     = output.use_secrets_manager && aws_secretsmanager_secret_version.this["own"].secret_string_wo == null
    error_message = "its value is written and not kept"
  }
}

run "watched" {
  command = plan
  variables {
    enable_monitoring          = true
    enable_detailed_monitoring = true
    monthly_budget_usd         = 500
    monthly_budget_emails      = ["a@example.org"]
    environment                = "prod"
    tags                       = { team = "vision" }
  }

  assert {
    condition     = alltrue(values(output.dto_cluster.monitoring)) && aws_instance.head.monitoring && aws_launch_template.node.monitoring[0].enabled
    error_message = "Prometheus on the cluster, CloudWatch beside it"
  }
  assert {
    condition     = aws_budgets_budget.this["own"].limit_amount == "500" && length(aws_budgets_budget.this["own"].notification) == 2
    error_message = "mails at 80 % and 100 %"
  }
  assert {
    condition     = aws_vpc.this["own"].tags == tomap({ Name = "lab", "dto:cluster" = "lab", environment = "prod", team = "vision" })
    error_message = "everything carries the tags"
  }
  assert {
    condition     = { for tag in aws_autoscaling_group.nodes.tag : tag.key => tag.value if tag.propagate_at_launch } == { Name = "lab-gpu", "dto:cluster" = "lab", "dto:group" = "gpu", "dto:role" = "node", environment = "prod", team = "vision" }
    error_message = "nodes, too"
  }
  assert {
    condition     = sort([for one in aws_launch_template.node.tag_specifications : one.resource_type]) == tolist(["instance", "network-interface", "volume"]) && alltrue([for one in aws_launch_template.node.tag_specifications : one.tags["dto:cluster"] == "lab"])
    error_message = "and their disks and cards"
  }
}

run "nodes_without_gpus" {
  command = plan
  variables {
    instance_type = "c7i.xlarge"
  }
  override_data {
    target = data.aws_ec2_instance_type.node
    values = {
      gpus                           = []
      efa_supported                  = false
      supported_architectures        = ["arm64"]
      supported_usages_classes       = ["on-demand"]
      supported_placement_strategies = ["cluster"]
    }
  }

  assert {
    condition     = keys(output.dto_cluster.node_groups) == ["cpu"] && output.total_gpus == 0 && output.dto_cluster.cloud.scaling_group == "lab-cpu"
    error_message = "a group of another name"
  }
  assert {
    condition     = strcontains(data.aws_ssm_parameter.image["node"].name, "/arm64/") && strcontains(data.aws_ssm_parameter.image["head"].name, "/amd64/")
    error_message = "each with an image for its processor"
  }
}

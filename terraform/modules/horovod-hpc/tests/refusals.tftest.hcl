# What is refused before anything is made. Several wrong values stand in one run; each must be
# refused by its own rule.

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

# A rule that looks at a second variable is not asked while that one is wrong: hence three runs.
run "words_that_are_none" {
  command = plan
  variables {
    cluster_name                = "Lab_1"
    region                      = "sweden"
    instance_type               = "p5"
    instance_count              = 0
    capacity_type               = "cheap"
    head_instance_type          = "big"
    ami_id                      = "ubuntu"
    head_ami_id                 = "ubuntu"
    environment                 = "a b"
    tags                        = { "dto:cluster" = "other" }
    allowed_cidr_blocks         = ["203.0.113.7/40"]
    vpc_cidr                    = "10.42.0.0"
    placement_group_strategy    = "near"
    shared_storage              = "floppy"
    shared_storage_mount_point  = "/usr/share"
    fsx_storage_capacity        = 1000
    fsx_throughput_per_tib      = 1
    head_volume_size            = 1
    root_volume_type            = "gp2"
    root_device_name            = "/dev/nvme0n1"
    root_volume_size            = 1
    additional_ebs_volumes      = [{ device_name = "/dev/sda", size = 1 }]
    kms_key_arn                 = "key"
    s3_bucket_arn               = "Ours"
    s3_old_version_days         = 0
    existing_vpc_id             = "mine"
    existing_public_subnet_id   = "mine"
    existing_private_subnet_id  = "mine"
    ssh_public_key              = "-----BEGIN OPENSSH PRIVATE KEY-----"
    existing_private_key_path   = "-----BEGIN OPENSSH PRIVATE KEY-----"
    ssh_user                    = "Ubuntu!"
    secret_version              = 0
    secret_recovery_window_days = 3
    prices                      = { "p4d.24xlarge" = -1 }
    budget                      = { hours = 0 }
    monthly_budget_emails       = ["nobody"]
  }
  expect_failures = [
    var.cluster_name, var.region, var.instance_type, var.instance_count, var.capacity_type, var.head_instance_type,
    var.ami_id, var.head_ami_id, var.environment, var.tags, var.allowed_cidr_blocks, var.vpc_cidr,
    var.placement_group_strategy, var.shared_storage, var.shared_storage_mount_point, var.fsx_storage_capacity,
    var.fsx_throughput_per_tib, var.head_volume_size, var.root_volume_type, var.root_device_name, var.root_volume_size,
    var.additional_ebs_volumes, var.kms_key_arn, var.s3_bucket_arn, var.s3_old_version_days, var.existing_vpc_id,
    var.existing_public_subnet_id, var.existing_private_subnet_id, var.ssh_public_key, var.existing_private_key_path,
    var.ssh_user, var.secret_version, var.secret_recovery_window_days, var.prices, var.budget, var.monthly_budget_emails,
  ]
}

run "values_that_do_not_fit_each_other" {
  command = plan
  variables {
    allowed_cidr_blocks     = ["203.0.113.7/32", "0.0.0.0/0"]
    instance_count          = 1.5
    fallback_instance_types = ["p4d.24xlarge"]
    ami_id                  = "ami-0123456789abcdef0"
    ami_ssm_parameter       = "/also/this"
    private_subnet_cidr     = "10.42.0.0/20" # around the public one
    capacity_type           = "reserved"
    spot_max_price          = 1 # of no spot node
    create_vpc              = false
    existing_vpc_id         = "vpc-0123456789abcdef0" # without its subnets
    existing_key_pair_name  = "mine"
    root_volume_type        = "io2"
    root_volume_throughput  = 500
    additional_ebs_volumes  = [{ device_name = "/dev/sdf", size = 1 }, { device_name = "/dev/sdf", size = 1 }]
    create_s3_bucket        = true
    s3_bucket_arn           = "arn:aws:s3:::ours"
    monthly_budget_usd      = 100
    budget                  = { amount = -1 }
  }
  expect_failures = [
    var.allowed_cidr_blocks, var.instance_count, var.fallback_instance_types, var.ami_ssm_parameter,
    var.private_subnet_cidr, var.capacity_reservation_id, var.spot_max_price, var.create_vpc, var.existing_private_key_path,
    var.root_volume_iops, var.root_volume_throughput, var.additional_ebs_volumes, var.create_s3_bucket,
    var.monthly_budget_usd, var.budget,
  ]
}

run "values_out_of_range" {
  command = plan
  variables {
    allowed_cidr_blocks     = []
    max_instance_count      = 1
    availability_zone       = "us-east-1a"
    public_subnet_cidr      = "10.99.0.0/24"
    private_subnet_cidr     = "10.99.16.0/20"
    capacity_type           = "reserved"
    capacity_reservation_id = "reserved"
    ami_ssm_parameter       = "no-path"
    root_volume_iops        = 1
    root_volume_throughput  = 1
    budget                  = { idle_minutes = -5 }
  }
  expect_failures = [
    var.allowed_cidr_blocks, var.max_instance_count, var.availability_zone, var.public_subnet_cidr,
    var.capacity_reservation_id, var.ami_ssm_parameter, var.root_volume_iops, var.root_volume_throughput, var.budget,
  ]
}

run "a_network_that_is_nobodys" {
  command = plan
  variables {
    private_subnet_cidr       = "10.99.16.0/20"
    existing_public_subnet_id = "subnet-0123456789abcdef0" # but create_vpc is true
    spot_max_price            = 0
    capacity_type             = "spot"
  }
  expect_failures = [var.private_subnet_cidr, var.create_vpc, var.spot_max_price]
}

run "flow_logs_of_somebody_elses_network" {
  command = plan
  variables {
    create_vpc                 = false
    existing_vpc_id            = "vpc-0123456789abcdef0"
    existing_public_subnet_id  = "subnet-0123456789abcdef0"
    existing_private_subnet_id = "subnet-0123456789abcdef1"
    enable_flow_logs           = true
    availability_zone          = "eu-north-1a"
  }
  expect_failures = [var.enable_flow_logs, var.availability_zone]
}

run "no_public_key" {
  command = plan
  variables {
    ssh_public_key      = null
    ssh_public_key_path = "./tests/mocks/nobody.pub"
  }
  expect_failures = [terraform_data.checks]
}

run "subnets_of_another_network" {
  command = plan
  variables {
    create_vpc                 = false
    existing_vpc_id            = "vpc-0aaaaaaaaaaaaaaa0"
    existing_public_subnet_id  = "subnet-0123456789abcdef0"
    existing_private_subnet_id = "subnet-0123456789abcdef1"
  }
  expect_failures = [terraform_data.checks]
}

run "subnets_in_two_zones" {
  command = plan
  variables {
    create_vpc                 = false
    existing_vpc_id            = "vpc-0123456789abcdef0"
    existing_public_subnet_id  = "subnet-0123456789abcdef0"
    existing_private_subnet_id = "subnet-0123456789abcdef1"
  }
  override_data {
    target = data.aws_subnet.existing["public"]
    values = { vpc_id = "vpc-0123456789abcdef0", availability_zone = "eu-north-1c" }
  }
  expect_failures = [terraform_data.checks]
}

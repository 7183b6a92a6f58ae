terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.90"
    }
  }
}

provider "aws" {
  region = var.region
}

module "cluster" {
  source = "../modules/horovod-hpc"

  cluster_name                = var.cluster_name
  region                      = var.region
  instance_type               = var.instance_type
  instance_count              = var.instance_count
  max_instance_count          = var.max_instance_count
  fallback_instance_types     = var.fallback_instance_types
  capacity_type               = var.capacity_type
  capacity_reservation_id     = var.capacity_reservation_id
  spot_max_price              = var.spot_max_price
  head_instance_type          = var.head_instance_type
  ami_id                      = var.ami_id
  head_ami_id                 = var.head_ami_id
  ami_ssm_parameter           = var.ami_ssm_parameter
  environment                 = var.environment
  tags                        = var.tags
  ssh_public_key_path         = var.ssh_public_key_path
  ssh_public_key              = var.ssh_public_key
  existing_key_pair_name      = var.existing_key_pair_name
  existing_private_key_path   = var.existing_private_key_path
  ssh_user                    = var.ssh_user
  use_secrets_manager         = var.use_secrets_manager
  secret_value                = var.secret_value
  secret_version              = var.secret_version
  secret_recovery_window_days = var.secret_recovery_window_days
  enable_monitoring           = var.enable_monitoring
  enable_detailed_monitoring  = var.enable_detailed_monitoring
  prices                      = var.prices
  budget                      = var.budget
  monthly_budget_usd          = var.monthly_budget_usd
  monthly_budget_emails       = var.monthly_budget_emails
  allowed_cidr_blocks         = var.allowed_cidr_blocks
  create_vpc                  = var.create_vpc
  vpc_cidr                    = var.vpc_cidr
  public_subnet_cidr          = var.public_subnet_cidr
  private_subnet_cidr         = var.private_subnet_cidr
  availability_zone           = var.availability_zone
  additional_zones            = var.additional_zones
  existing_vpc_id             = var.existing_vpc_id
  existing_public_subnet_id   = var.existing_public_subnet_id
  existing_private_subnet_id  = var.existing_private_subnet_id
  use_public_subnet           = var.use_public_subnet
  create_nat_gateway          = var.create_nat_gateway
  enable_efa                  = var.enable_efa
  placement_group_strategy    = var.placement_group_strategy
  enable_flow_logs            = var.enable_flow_logs
  shared_storage              = var.shared_storage
  shared_storage_mount_point  = var.shared_storage_mount_point
  fsx_storage_capacity        = var.fsx_storage_capacity
  fsx_throughput_per_tib      = var.fsx_throughput_per_tib
  head_volume_size            = var.head_volume_size
  root_device_name            = var.root_device_name
  root_volume_type            = var.root_volume_type
  root_volume_size            = var.root_volume_size
  root_volume_iops            = var.root_volume_iops
  root_volume_throughput      = var.root_volume_throughput
  additional_ebs_volumes      = var.additional_ebs_volumes
  kms_key_arn                 = var.kms_key_arn
  create_s3_bucket            = var.create_s3_bucket
  s3_bucket_arn               = var.s3_bucket_arn
  s3_force_destroy            = var.s3_force_destroy
  s3_old_version_days         = var.s3_old_version_days
}

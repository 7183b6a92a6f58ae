# `service-account` reads the names of three environment variables, `token` reads NEBIUS_IAM_TOKEN
# (nebius iam get-access-token, for 12 hours); neither is ever written into the state.
provider "nebius" {
  service_account = var.auth != "service-account" ? null : {
    account_id_env       = "NB_SA_ID"
    public_key_id_env    = "NB_AUTHKEY_PUBLIC_ID"
    private_key_file_env = "NB_AUTHKEY_PRIVATE_PATH"
  }
}

module "cluster" {
  source = "../modules/nebius-hpc"

  cluster_name               = var.cluster_name
  project_id                 = var.project_id
  tenant_id                  = var.tenant_id
  region                     = var.region
  environment                = var.environment
  tags                       = var.tags
  instance_type              = var.instance_type
  instance_count             = var.instance_count
  head_instance_type         = var.head_instance_type
  image_family               = var.image_family
  head_image_family          = var.head_image_family
  image_id                   = var.image_id
  enable_infiniband          = var.enable_infiniband
  infiniband_fabric          = var.infiniband_fabric
  enable_monitoring          = var.enable_monitoring
  node_groups                = var.node_groups
  allowed_cidr_blocks        = var.allowed_cidr_blocks
  create_vpc                 = var.create_vpc
  private_subnet_cidr        = var.private_subnet_cidr
  existing_private_subnet_id = var.existing_private_subnet_id
  use_public_subnet          = var.use_public_subnet
  head_is_proxy              = var.head_is_proxy
  root_volume_type           = var.root_volume_type
  root_volume_size           = var.root_volume_size
  shared_storage_mount_point = var.shared_storage_mount_point
  shared_storage_type        = var.shared_storage_type
  shared_storage_size        = var.shared_storage_size
  existing_shared_storage_id = var.existing_shared_storage_id
  create_s3_bucket           = var.create_s3_bucket
  bucket_name                = var.bucket_name
  vm_username                = var.vm_username
  vm_ssh_public_key_path     = var.vm_ssh_public_key_path
  existing_private_key_path  = var.existing_private_key_path
  head_service_account_id    = var.head_service_account_id
  service_account_id         = var.service_account_id
  capacity_type              = var.capacity_type
  capacity_reservation_id    = var.capacity_reservation_id
  prices                     = var.prices
  budget                     = var.budget
}

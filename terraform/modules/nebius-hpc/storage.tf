resource "nebius_compute_v1_filesystem" "shared" {
  for_each = var.existing_shared_storage_id == null ? { this = var.shared_storage_size } : {}

  parent_id      = var.project_id
  name           = "${var.cluster_name}-shared"
  labels         = local.labels
  type           = var.shared_storage_type
  size_gibibytes = each.value
}

locals {
  shared_id  = var.existing_shared_storage_id == null ? nebius_compute_v1_filesystem.shared["this"].id : var.existing_shared_storage_id
  shared_tag = "shared"
  filesystems = [{
    attach_mode         = "READ_WRITE"
    mount_tag           = local.shared_tag
    existing_filesystem = { id = local.shared_id }
  }]

  bucket_name = var.bucket_name != null ? var.bucket_name : var.create_s3_bucket ? "${var.cluster_name}-${var.project_id}" : null
}

resource "nebius_storage_v1_bucket" "this" {
  for_each = var.create_s3_bucket ? { this = local.bucket_name } : {}

  parent_id         = var.project_id
  name              = each.value
  labels            = local.labels
  versioning_policy = "ENABLED"
}

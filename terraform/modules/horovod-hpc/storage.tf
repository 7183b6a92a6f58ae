locals {
  efs    = toset(var.shared_storage == "efs" ? ["own"] : [])
  lustre = toset(var.shared_storage == "fsx-lustre" ? ["own"] : [])

  # with nfs the head serves its own disk, and needs no source
  shared = {
    kind   = var.shared_storage
    path   = var.shared_storage_mount_point
    source = one(concat([for fs in aws_efs_file_system.this : "${fs.dns_name}:/"], [for fs in aws_fsx_lustre_file_system.this : "${fs.dns_name}@tcp:/${fs.mount_name}"]))
  }
}

resource "aws_efs_file_system" "this" {
  for_each         = local.efs
  creation_token   = var.cluster_name
  encrypted        = true
  kms_key_id       = var.kms_key_arn
  throughput_mode  = "elastic" # bursting is far too slow for checkpoints
  performance_mode = "generalPurpose"
  tags             = merge(local.tags, { Name = var.cluster_name })
}

resource "aws_efs_mount_target" "this" {
  for_each        = local.efs
  file_system_id  = aws_efs_file_system.this[each.key].id
  subnet_id       = local.node_subnet
  security_groups = [aws_security_group.cluster.id]
}

resource "aws_fsx_lustre_file_system" "this" {
  for_each                    = local.lustre
  subnet_ids                  = [local.node_subnet]
  security_group_ids          = [aws_security_group.cluster.id]
  storage_capacity            = var.fsx_storage_capacity
  deployment_type             = "PERSISTENT_2"
  storage_type                = "SSD"
  per_unit_storage_throughput = var.fsx_throughput_per_tib
  data_compression_type       = "LZ4"
  file_system_type_version    = "2.15"
  kms_key_id                  = var.kms_key_arn
  tags                        = merge(local.tags, { Name = var.cluster_name })
}

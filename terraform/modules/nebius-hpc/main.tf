locals {
  platform = split("/", var.instance_type)[0]
  preset   = split("/", var.instance_type)[1]
  gpus     = try(tonumber(regex("^([0-9]+)gpu-", local.preset)[0]), 0)
  gpu_type = try(regex("^gpu-([a-z0-9]+)", local.platform)[0], null)
  is_spot  = var.capacity_type == "spot"
  group    = local.gpus > 0 ? "gpu" : "cpu"

  head_platform = split("/", var.head_instance_type)[0]
  head_preset   = split("/", var.head_instance_type)[1]

  head_name    = "${var.cluster_name}-head"
  node_names   = toset([for number in range(1, var.instance_count + 1) : format("%s-%03d", var.cluster_name, number)])
  image_family = coalesce(var.image_family, local.gpus > 0 ? "ubuntu24.04-cuda12" : "ubuntu24.04-driverless")
  project      = data.nebius_iam_v1_project.this
  region       = try(coalesce(var.region, local.project.region, try(local.project.status.region, null)), "")

  # What the sweep after `dto cluster down` finds our resources by.
  labels = merge(var.tags, { dto-cluster = var.cluster_name, dto-environment = var.environment })
}

data "nebius_iam_v1_project" "this" {
  id = var.project_id

  lifecycle {
    postcondition {
      condition     = var.tenant_id == null || self.parent_id == var.tenant_id
      error_message = "Project ${var.project_id} belongs to ${coalesce(self.parent_id, "another tenant")}, not to tenant_id; nothing was made."
    }
  }
}

resource "nebius_compute_v1_gpu_cluster" "this" {
  for_each = local.gpus == 8 && var.enable_infiniband ? { this = var.infiniband_fabric } : {}

  parent_id         = var.project_id
  name              = var.cluster_name
  labels            = local.labels
  infiniband_fabric = each.value
}

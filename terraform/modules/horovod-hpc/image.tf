# The images: the newest when the cluster is made, the same ever after. A newer one comes with
#   terraform apply -replace='module.cluster.terraform_data.image["node"]'
# and is what nodes start from that start later.

locals {
  ubuntu = "/aws/service/canonical/ubuntu/server/24.04/stable/current/%s/hvm/ebs-gp3/ami-id"
  looked_up = merge(
    var.ami_id != null ? {} : { node = coalesce(var.ami_ssm_parameter, format(local.ubuntu, local.node_arch)) },
    var.head_ami_id != null ? {} : { head = format(local.ubuntu, local.head_arch) },
  )
  node_image = var.ami_id != null ? var.ami_id : terraform_data.image["node"].output
  head_image = var.head_ami_id != null ? var.head_ami_id : terraform_data.image["head"].output
}

data "aws_ssm_parameter" "image" {
  for_each = local.looked_up
  name     = each.value
}

resource "terraform_data" "image" {
  for_each = local.looked_up
  input    = data.aws_ssm_parameter.image[each.key].insecure_value

  lifecycle {
    ignore_changes = [input]
  }
}

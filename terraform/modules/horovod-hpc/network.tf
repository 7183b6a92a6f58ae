locals {
  vpc_id         = var.create_vpc ? aws_vpc.this["own"].id : var.existing_vpc_id
  public_subnet  = var.create_vpc ? aws_subnet.public["own"].id : var.existing_public_subnet_id
  private_subnet = var.create_vpc ? aws_subnet.private["own"].id : var.existing_private_subnet_id
  node_subnet    = var.use_public_subnet ? local.public_subnet : local.private_subnet
  node_cidr      = var.use_public_subnet ? var.public_subnet_cidr : var.private_subnet_cidr

  own_vpc = toset(var.create_vpc ? ["own"] : [])
  own_nat = toset(var.create_vpc && var.create_nat_gateway && !var.use_public_subnet ? ["own"] : [])
}

data "aws_subnet" "existing" {
  for_each = var.create_vpc ? {} : { public = var.existing_public_subnet_id, private = var.existing_private_subnet_id }
  id       = each.value
}

resource "aws_vpc" "this" {
  #checkov:skip=CKV2_AWS_11:flow logs are billed; enable_flow_logs turns them on
  for_each             = local.own_vpc
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = merge(local.tags, { Name = var.cluster_name })
}

# Nothing of ours is in the default group; without rules, nothing else can be reached through it.
resource "aws_default_security_group" "closed" {
  for_each = local.own_vpc
  vpc_id   = aws_vpc.this[each.key].id
  tags     = merge(local.tags, { Name = "${var.cluster_name}-closed" })
}

resource "aws_internet_gateway" "this" {
  for_each = local.own_vpc
  vpc_id   = aws_vpc.this[each.key].id
  tags     = merge(local.tags, { Name = var.cluster_name })
}

resource "aws_subnet" "public" {
  for_each          = local.own_vpc
  vpc_id            = aws_vpc.this[each.key].id
  cidr_block        = var.public_subnet_cidr
  availability_zone = terraform_data.zone.output
  tags              = merge(local.tags, { Name = "${var.cluster_name}-public" })
}

resource "aws_subnet" "private" {
  for_each          = local.own_vpc
  vpc_id            = aws_vpc.this[each.key].id
  cidr_block        = var.private_subnet_cidr
  availability_zone = terraform_data.zone.output
  tags              = merge(local.tags, { Name = "${var.cluster_name}-private" })
}

resource "aws_route_table" "public" {
  for_each = local.own_vpc
  vpc_id   = aws_vpc.this[each.key].id
  tags     = merge(local.tags, { Name = "${var.cluster_name}-public" })
}

resource "aws_route" "public" {
  for_each               = local.own_vpc
  route_table_id         = aws_route_table.public[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this[each.key].id
}

resource "aws_route_table_association" "public" {
  for_each       = local.own_vpc
  subnet_id      = aws_subnet.public[each.key].id
  route_table_id = aws_route_table.public[each.key].id
}

resource "aws_route_table" "private" {
  for_each = local.own_vpc
  vpc_id   = aws_vpc.this[each.key].id
  tags     = merge(local.tags, { Name = "${var.cluster_name}-private" })
}

resource "aws_route_table_association" "private" {
  for_each       = local.own_vpc
  subnet_id      = aws_subnet.private[each.key].id
  route_table_id = aws_route_table.private[each.key].id
}

resource "aws_eip" "nat" {
  for_each = local.own_nat
  domain   = "vpc"
  tags     = merge(local.tags, { Name = "${var.cluster_name}-nat" })
}

resource "aws_nat_gateway" "this" {
  for_each      = local.own_nat
  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id
  tags          = merge(local.tags, { Name = var.cluster_name })
  depends_on    = [aws_internet_gateway.this]
}

resource "aws_route" "private" {
  for_each               = local.own_nat
  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[each.key].id
}

# Checkpoints go to the bucket without the NAT gateway, which bills every gigabyte.
resource "aws_vpc_endpoint" "s3" {
  for_each          = local.own_vpc
  vpc_id            = aws_vpc.this[each.key].id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.public[each.key].id, aws_route_table.private[each.key].id]
  tags              = merge(local.tags, { Name = "${var.cluster_name}-s3" })
}

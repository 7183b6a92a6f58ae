# What AWS says of a type with eight GPUs and four EFA cards, and of a region with two zones.
mock_data "aws_ec2_instance_type" {
  defaults = {
    gpus                           = [{ count = 8, name = "A100", manufacturer = "NVIDIA", memory_size = 40960 }]
    efa_supported                  = true
    efa_maximum_interfaces         = 4
    supported_architectures        = ["x86_64"]
    supported_usages_classes       = ["on-demand", "spot"]
    supported_placement_strategies = ["cluster", "partition", "spread"]
  }
}
mock_data "aws_ec2_instance_type_offerings" {
  defaults = { locations = ["eu-north-1b", "eu-north-1a"] }
}
mock_data "aws_region" {
  defaults = { name = "eu-north-1" }
}
mock_data "aws_partition" {
  defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
}
mock_data "aws_caller_identity" {
  defaults = { account_id = "123456789012" }
}
mock_data "aws_ssm_parameter" {
  defaults = { insecure_value = "ami-0aaaaaaaaaaaaaaa0" }
}
mock_data "aws_subnet" {
  defaults = { vpc_id = "vpc-0123456789abcdef0", availability_zone = "eu-north-1a" }
}
mock_data "aws_iam_policy_document" {
  defaults = { json = "{}" }
}
mock_resource "aws_s3_bucket" {
  defaults = { arn = "arn:aws:s3:::lab-1", bucket = "lab-1" }
}
mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::123456789012:role/lab" }
}
mock_resource "aws_cloudwatch_log_group" {
  defaults = { arn = "arn:aws:logs:eu-north-1:123456789012:log-group:lab" }
}
mock_resource "aws_eip" {
  defaults = { public_ip = "198.51.100.7" }
}
mock_resource "aws_instance" {
  defaults = { id = "i-0123456789abcdef0", private_ip = "10.42.0.4" }
}
mock_resource "aws_efs_file_system" {
  defaults = { dns_name = "fs-01.efs.eu-north-1.amazonaws.com" }
}
mock_resource "aws_fsx_lustre_file_system" {
  defaults = { dns_name = "fs-02.fsx.eu-north-1.amazonaws.com", mount_name = "abcdefgh" }
}
mock_resource "aws_launch_template" {
  defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
}

# Instance types that do not fit what is asked of them.

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

run "efa_for_a_type_without" {
  command = plan
  variables {
    enable_efa = true
  }
  override_data {
    target = data.aws_ec2_instance_type.node
    values = {
      efa_supported            = false, efa_maximum_interfaces = 0, gpus = [], supported_architectures = ["x86_64"]
      supported_usages_classes = ["on-demand"], supported_placement_strategies = ["cluster"]
    }
  }
  expect_failures = [terraform_data.checks]
}

run "efa_in_the_public_subnet" {
  command = plan
  variables {
    enable_efa        = true
    use_public_subnet = true
  }
  expect_failures = [terraform_data.checks]
}

run "spot_of_a_type_that_is_not_sold_so" {
  command = plan
  variables {
    capacity_type = "spot"
  }
  override_data {
    target = data.aws_ec2_instance_type.node
    values = {
      efa_supported            = true, efa_maximum_interfaces = 1, gpus = [], supported_architectures = ["x86_64"]
      supported_usages_classes = ["on-demand"], supported_placement_strategies = ["cluster"]
    }
  }
  expect_failures = [terraform_data.checks]
}

run "a_placement_that_the_type_does_not_have" {
  command = plan
  override_data {
    target = data.aws_ec2_instance_type.node
    values = {
      efa_supported            = true, efa_maximum_interfaces = 1, gpus = [], supported_architectures = ["x86_64"]
      supported_usages_classes = ["on-demand"], supported_placement_strategies = ["spread"]
    }
  }
  expect_failures = [terraform_data.checks]
}

run "a_fallback_with_other_gpus" {
  command = plan
  variables {
    fallback_instance_types = ["g5.xlarge"]
  }
  override_data {
    target = data.aws_ec2_instance_type.node["g5.xlarge"]
    values = {
      efa_supported            = true, efa_maximum_interfaces = 4, supported_architectures = ["x86_64"]
      gpus                     = [{ count = 1, name = "A10G", manufacturer = "NVIDIA", memory_size = 24576 }]
      supported_usages_classes = ["on-demand"], supported_placement_strategies = ["cluster"]
    }
  }
  expect_failures = [terraform_data.checks]
}

run "a_fallback_with_other_efa_cards" {
  command = plan
  variables {
    fallback_instance_types = ["p5.48xlarge"]
  }
  override_data {
    target = data.aws_ec2_instance_type.node["p5.48xlarge"]
    values = {
      efa_supported            = true, efa_maximum_interfaces = 32, supported_architectures = ["x86_64"]
      gpus                     = [{ count = 8, name = "H100", manufacturer = "NVIDIA", memory_size = 81920 }]
      supported_usages_classes = ["on-demand"], supported_placement_strategies = ["cluster"]
    }
  }
  expect_failures = [terraform_data.checks]
}

run "a_subnet_that_is_too_small_for_the_cards" {
  command = plan
  variables {
    instance_count      = 7
    private_subnet_cidr = "10.42.1.0/27"
  }
  expect_failures = [terraform_data.checks]
}

run "a_provider_in_another_region" {
  command = plan
  variables {
    region = "eu-west-1"
  }
  expect_failures = [terraform_data.checks]
}

run "a_zone_without_the_type" {
  command = plan
  variables {
    availability_zone = "eu-north-1c"
  }
  expect_failures = [terraform_data.zone]
}

run "types_that_share_no_zone" {
  command = plan
  override_data {
    target = data.aws_ec2_instance_type_offerings.zones["m6i.large"]
    values = { locations = ["eu-north-1c"] }
  }
  expect_failures = [terraform_data.zone]
}

run "a_fallback_with_another_processor" {
  command = plan
  variables {
    fallback_instance_types = ["g5g.metal"]
  }
  override_data {
    target = data.aws_ec2_instance_type.node["g5g.metal"]
    values = {
      efa_supported            = true, efa_maximum_interfaces = 4, supported_architectures = ["arm64"]
      gpus                     = [{ count = 8, name = "A100", manufacturer = "NVIDIA", memory_size = 40960 }]
      supported_usages_classes = ["on-demand"], supported_placement_strategies = ["cluster"]
    }
  }
  expect_failures = [terraform_data.checks]
}

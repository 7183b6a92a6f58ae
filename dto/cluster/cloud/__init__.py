"""The operator's side of a cloud: Terraform run for a person, prices, checks, and a clean end."""

"""A stub of the provider nebius/nebius, for tests without an account."""

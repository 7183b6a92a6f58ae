"""How fast dto is, beside the peers that users would take instead, measured in one run."""

"""What a job needs and what a cluster is, and where each value came from."""

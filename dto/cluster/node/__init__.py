"""Programs that run on a cluster's nodes, by the system's Python, with the standard library alone."""

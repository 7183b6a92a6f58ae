"""Programs that run on a cluster's nodes, by the system's Python and its library alone."""

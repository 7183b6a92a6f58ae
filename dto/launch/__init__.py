"""Inside the job: one coordinator, one agent per node, and the ranks they start and watch."""

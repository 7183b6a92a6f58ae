"""What runs inside each rank: its world, its collectives, its gradients, its data, its trainer."""

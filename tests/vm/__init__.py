"""What containers cannot show: hosts with a kernel of their own, under software emulation."""

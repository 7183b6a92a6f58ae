"""Where jobs run: this machine, or a SLURM cluster."""

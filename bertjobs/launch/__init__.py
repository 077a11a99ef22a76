"""A run's life: plan, checks, batch script, Slurm or this machine, and watching it from outside."""

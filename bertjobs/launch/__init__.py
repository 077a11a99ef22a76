"""Where a run runs: plan, checks, batch script, Slurm and this machine, and the view from outside."""

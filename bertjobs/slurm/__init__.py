"""All that is known of Slurm, and the only place that calls it."""

"""Jobs that submitit queues, instead of plain sbatch."""

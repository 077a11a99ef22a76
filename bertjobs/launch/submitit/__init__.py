"""Jobs by submitit in place of a batch script."""

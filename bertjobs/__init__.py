"""bertjobs: pretrain BERT on a Slurm cluster, or on this machine."""

__version__ = "0.1.0"

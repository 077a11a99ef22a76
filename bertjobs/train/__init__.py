"""The worker: one process per GPU (or CPU process) that trains one phase and writes checkpoints.

Started as ``python -m bertjobs.train`` by ``run.sub`` or by the local launcher; it meets them only in the
run directory and in its exit code.
"""

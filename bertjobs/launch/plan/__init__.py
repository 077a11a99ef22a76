"""What a run would ask for, and what stands in its way, before anything is queued."""

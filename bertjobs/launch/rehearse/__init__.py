"""A run in miniature, struck by faults."""

"""Shards to batches: order, masking, packing."""

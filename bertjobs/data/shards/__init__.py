"""Shards: their columns, their manifest, reading them."""

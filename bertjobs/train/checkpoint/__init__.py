"""Checkpoints: what is in them, writing them beside the steps, starting from them."""

"""Checkpoints: what is in them, writing them during the steps, starting from them."""

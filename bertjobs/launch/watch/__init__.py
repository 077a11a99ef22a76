"""Watching runs: status, timeline, logs."""

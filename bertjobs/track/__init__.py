"""Experiment trackers: a run's metrics replayed from its folder, on a machine with a network."""

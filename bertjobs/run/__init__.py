"""The run directory: its paths, manifests and journal. Everything is written whole or not at all."""

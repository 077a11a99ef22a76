"""What to run: schema, catalogue, resolution with provenance, batch arithmetic, the lockfile."""

"""Fine-tuning as an objective of the engine, and what its checkpoints predict."""

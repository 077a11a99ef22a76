"""Distillation as an objective of the engine: a small BERT, the student, learns from a larger one, its teacher."""

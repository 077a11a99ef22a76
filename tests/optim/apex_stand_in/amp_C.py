"""Stands for apex's compiled extensions, by whose presence NVIDIA's package is told from others of that name."""

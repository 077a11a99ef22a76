"""Stands in for apex's compiled extensions, whose presence distinguishes NVIDIA's package from others of that name."""

"""Stands in for NVIDIA APEX, which needs a CUDA compiler and a GPU: its LAMB's visible behaviour, in torch."""

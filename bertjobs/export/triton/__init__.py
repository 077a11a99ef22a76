"""A model repository for NVIDIA's Triton Inference Server: text in, answers out."""

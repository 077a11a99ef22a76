"""BERT with its two pretraining heads, and its weights in Hugging Face's format."""

"""Fine-tuned and pretrained models as an HTTP server."""

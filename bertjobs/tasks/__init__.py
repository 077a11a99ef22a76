"""What a pretrained BERT is fine-tuned for: examples, readers, labels, encoding and metrics. Nothing needs torch."""

"""What a pretrained BERT is fine-tuned for: files of examples, labels, encoding and metrics. Nothing here needs torch."""

"""Files of examples for fine-tuning, in the forms in which they are published; each is read example by example."""

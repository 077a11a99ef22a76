"""Checkpoints of other programs that pretrain BERT, made into Hugging Face folders."""

"""Corpus to shards to batches: documents, sentences, tokens, pairs, masks, the stream."""

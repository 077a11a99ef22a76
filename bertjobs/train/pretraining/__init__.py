"""BERT's pretraining, the first objective: masked words and next sentences over prepared shards."""

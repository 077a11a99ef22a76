"""What is in a corpus and in shards, and what is wrong with them."""

"""Text to tokens: sentences, vocabularies, WordPiece."""

"""Holding an artifact to its golden embeddings and to retrieval."""

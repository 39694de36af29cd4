"""Verification: artifacts are measured against their golden embeddings and on retrieval."""

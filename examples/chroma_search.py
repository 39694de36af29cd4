"""Chroma: an artifact as the EmbeddingFunction of a collection.

pip install goldfold[onnxruntime] chromadb
python examples/chroma_search.py out/onnxruntime-fp32

The collection keeps the name and the folder, and opens it again by itself.
"""

import sys
from typing import Any

import chromadb
import numpy as np
from chromadb import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from goldfold import load


@register_embedding_function
class GoldfoldEmbeddingFunction(EmbeddingFunction[Documents]):
    """Documents by `__call__`, queries by `embed_query`, each with the model's prompt."""

    def __init__(self, artifact: str) -> None:
        self.artifact = artifact
        self.encoder = load(artifact)

    def __call__(self, input: Documents) -> Embeddings:
        return self._listed(self.encoder.embed_document(input))

    def embed_query(self, input: Documents) -> Embeddings:
        return self._listed(self.encoder.embed_query(input))

    @staticmethod
    def _listed(rows: np.ndarray) -> Embeddings:
        return list(rows)

    @staticmethod
    def name() -> str:
        return "goldfold"

    def get_config(self) -> dict[str, Any]:
        return {"artifact": self.artifact}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "GoldfoldEmbeddingFunction":
        return GoldfoldEmbeddingFunction(config["artifact"])

    def default_space(self) -> str:
        return "cosine"

    def supported_spaces(self) -> list[str]:
        return ["cosine", "l2", "ip"]


if __name__ == "__main__":
    texts = ["Bread rises when yeast makes gas.", "A glacier moves under its own weight."]
    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
    collection = client.create_collection(
        "texts", embedding_function=GoldfoldEmbeddingFunction(sys.argv[1])
    )
    collection.add(ids=["0", "1"], documents=texts)
    found = client.get_collection("texts").query(query_texts=["how do glaciers move?"], n_results=1)
    assert found["documents"] == [[texts[1]]]
    print(found["documents"][0][0])

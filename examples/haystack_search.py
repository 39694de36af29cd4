"""Haystack: an artifact as a text embedder and a document embedder, in two pipelines.

pip install goldfold[onnxruntime] haystack-ai
python examples/haystack_search.py out/onnxruntime-fp32
"""

import sys
from dataclasses import replace
from typing import Any

from haystack import Document, Pipeline, component, default_from_dict, default_to_dict
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from goldfold import Encoder, load


class Goldfold:
    """What both embedders share: the folder, which is opened at warm-up, and goes into YAML."""

    def __init__(self, artifact: str) -> None:
        self.artifact = artifact
        self._encoder: Encoder | None = None

    def warm_up(self) -> None:
        if self._encoder is None:
            self._encoder = load(self.artifact)

    @property
    def encoder(self) -> Encoder:
        self.warm_up()
        assert self._encoder is not None
        return self._encoder

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(self, artifact=self.artifact)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Goldfold":
        return default_from_dict(cls, data)


@component
class GoldfoldTextEmbedder(Goldfold):
    """Embeds a query."""

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        return {"embedding": self.encoder.embed_query(text)[0].tolist()}


@component
class GoldfoldDocumentEmbedder(Goldfold):
    """Embeds documents; those without text are embedded as the empty text."""

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        rows = self.encoder.embed_document([one.content or "" for one in documents]).tolist()
        made = [replace(one, embedding=row) for one, row in zip(documents, rows, strict=True)]
        return {"documents": made}


if __name__ == "__main__":
    texts = ["Bread rises when yeast makes gas.", "A glacier moves under its own weight."]
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    writing = Pipeline()
    writing.add_component("embedder", GoldfoldDocumentEmbedder(sys.argv[1]))
    writing.add_component("writer", DocumentWriter(store))
    writing.connect("embedder.documents", "writer.documents")
    writing.run({"embedder": {"documents": [Document(content=text) for text in texts]}})

    asking = Pipeline()
    asking.add_component("embedder", GoldfoldTextEmbedder(sys.argv[1]))
    asking.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    asking.connect("embedder.embedding", "retriever.query_embedding")
    found = asking.run({"embedder": {"text": "how do glaciers move?"}})
    (document,) = found["retriever"]["documents"]
    assert document.content == texts[1]
    assert "artifact" in asking.dumps()
    print(document.content)

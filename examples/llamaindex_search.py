"""LlamaIndex: an artifact as its BaseEmbedding, in a VectorStoreIndex.

pip install goldfold[onnxruntime] llama-index-core
python examples/llamaindex_search.py out/onnxruntime-fp32
"""

import sys
from typing import Any

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from pydantic import PrivateAttr

from goldfold import Encoder, load


class GoldfoldEmbedding(BaseEmbedding):
    """Queries and texts with the prompts that the model has for each."""

    _encoder: Encoder = PrivateAttr()

    def __init__(self, encoder: Encoder, **settings: Any) -> None:
        super().__init__(model_name=encoder.contract.model, **settings)
        self._encoder = encoder

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._encoder.embed_document(texts).tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encoder.embed_query(query)[0].tolist()

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._encoder.aembed_document(text))[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._encoder.aembed_query(query))[0].tolist()


if __name__ == "__main__":
    texts = ["Bread rises when yeast makes gas.", "A glacier moves under its own weight."]
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in texts],
        embed_model=GoldfoldEmbedding(load(sys.argv[1]), embed_batch_size=128),
        transformations=[],  # each text is a node
    )
    (found,) = index.as_retriever(similarity_top_k=1).retrieve("how do glaciers move?")
    assert found.text == texts[1]
    print(found.text)

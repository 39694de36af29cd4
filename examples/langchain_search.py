"""LangChain: an artifact as its Embeddings, in a vector store and in a chain.

pip install goldfold[onnxruntime] langchain-core
python examples/langchain_search.py out/onnxruntime-fp32
"""

import asyncio
import sys

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from goldfold import Encoder, load


class GoldfoldEmbeddings(Embeddings):
    """Queries and documents with the prompts that the model has for each."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.encoder.embed_document(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.encoder.embed_query(text)[0].tolist()

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return (await self.encoder.aembed_document(texts)).tolist()

    async def aembed_query(self, text: str) -> list[float]:
        return (await self.encoder.aembed_query(text))[0].tolist()


if __name__ == "__main__":
    embeddings = GoldfoldEmbeddings(load(sys.argv[1]))
    texts = ["Bread rises when yeast makes gas.", "A glacier moves under its own weight."]
    store = InMemoryVectorStore.from_texts(texts, embeddings)
    (found,) = store.similarity_search("how do glaciers move?", k=1)
    (also,) = asyncio.run(store.asimilarity_search("why does dough grow?", k=1))
    assert (found.page_content, also.page_content) == (texts[1], texts[0])
    print(found.page_content)

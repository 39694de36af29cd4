"""txtai: an artifact as the external vectors of an Embeddings index.

pip install goldfold[onnxruntime] txtai
python examples/txtai_search.py out/onnxruntime-fp32

txtai gives one function queries and documents alike, a list at a time. A model that has a prompt
for each gets the documents' here; put a query's prompt before the query yourself.
"""

import sys

import numpy as np
from txtai import Embeddings

from goldfold import load

if __name__ == "__main__":
    encoder = load(sys.argv[1])
    texts = ["Bread rises when yeast makes gas.", "A glacier moves under its own weight."]

    def transform(some: list[str]) -> np.ndarray:  # a plain function: txtai calls others at once
        return encoder.embed_document(some)

    index = Embeddings(method="external", transform=transform, content=True, backend="numpy")
    index.index(texts)
    (found,) = index.search("how do glaciers move?", 1)
    assert found["text"] == texts[1]
    print(found["text"])

"""The client `openai` against examples/server.py, and `/rerank` of one that has a reranker.

pip install openai
python examples/openai_client.py http://127.0.0.1:8000 out/onnxruntime-fp32

Checks every vector against the artifact itself.
"""

import sys

import numpy as np
import openai

from goldfold import load

if __name__ == "__main__":
    address, encoder = sys.argv[1], load(sys.argv[2])
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    texts = ["Bread rises when yeast makes gas.", "A glacier moves under its own weight."]
    half = encoder.contract.dim // 2
    for how in ({}, {"encoding_format": "float"}, {"dimensions": half}):  # the first is base64
        made = client.embeddings.create(model="any", input=texts, **how)
        rows = np.array([one.embedding for one in made.data], np.float32)
        np.testing.assert_allclose(
            rows, encoder.embed(texts, dims=how.get("dimensions")), atol=1e-5
        )
        assert made.usage.prompt_tokens == sum(map(len, encoder.tokenize(texts)))
    assert client.models.list().data[0].id == encoder.contract.model
    for wrong, said in (
        ({"input": []}, "input must be a text"),
        ({"input": texts, "dimensions": 10**6}, "dims is 1000000"),
    ):
        try:
            client.embeddings.create(model="any", **wrong)
        except openai.BadRequestError as error:
            assert said in error.message, error.message
        else:
            raise AssertionError(f"{wrong} was taken")
    print(f"{len(made.data)} vectors of {rows.shape[1]} dimensions")

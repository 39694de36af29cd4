"""An OpenAI-compatible embedding server in a page: `/v1/embeddings`, and `/rerank` of a reranker.

    pip install goldfold[openvino] starlette uvicorn
    python examples/server.py out/openvino-fp32 --reranker out-reranker/openvino-fp32 --port 8000

Texts of requests that come together are computed together (goldfold.Batcher). It listens on
127.0.0.1 alone; TLS, keys and quotas are for a proxy in front of it. Ctrl-C stops it after the
requests that are at work. An example to copy and change: benchmarks/service.py is its load test.
"""

import argparse
import asyncio
import base64
import contextlib
import json

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from goldfold import Batcher, Busy, GoldfoldError, UsageError, load

MOST_BYTES = 8 << 20


def error(message: str, status: int, kind: str = "invalid_request_error") -> JSONResponse:
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status)


async def body_of(request: Request) -> dict:
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > MOST_BYTES:
            raise UsageError(f"the body has more than {MOST_BYTES} bytes; send fewer texts")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise UsageError("the body is no JSON") from None
    if not isinstance(found, dict):
        raise UsageError("the body must be a JSON object")
    return found


async def embeddings(request: Request) -> JSONResponse:
    asked, state = await body_of(request), request.app.state
    texts = [asked["input"]] if isinstance(asked.get("input"), str) else asked.get("input")
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise UsageError("input must be a text or a list of texts; token ids are not taken")
    form = asked.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise UsageError(f"encoding_format is {form!r}; it must be float or base64")
    rows = await state.batcher.aembed(
        texts, dims=asked.get("dimensions"), prompt=asked.get("prompt_name")
    )
    if form == "base64":
        found = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
    else:
        found = rows.tolist()
    tokens = sum(map(len, await asyncio.to_thread(state.encoder.tokenize, texts)))
    data = [{"object": "embedding", "index": n, "embedding": e} for n, e in enumerate(found)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": state.name, "usage": usage})


async def rerank(request: Request) -> JSONResponse:
    asked, scorer = await body_of(request), request.app.state.reranker
    if scorer is None:
        return error("this server was started without --reranker", 404)
    query, texts, top = asked.get("query"), asked.get("documents"), asked.get("top_n")
    if not isinstance(query, str) or not isinstance(texts, list) or not texts:
        raise UsageError("query must be a text, documents a list of texts")
    if top is not None and (not isinstance(top, int) or top < 1):
        raise UsageError(f"top_n is {top!r}; it must be a whole number from 1")
    scores = await scorer.apredict([(query, text) for text in texts])
    order = np.argsort(-scores, kind="stable")[:top]
    results = [{"index": int(n), "relevance_score": float(scores[n])} for n in order]
    if asked.get("return_documents"):
        results = [{**one, "document": {"text": texts[one["index"]]}} for one in results]
    return JSONResponse({"results": results})


async def models(request: Request) -> JSONResponse:
    one = {"id": request.app.state.name, "object": "model", "created": 0, "owned_by": "goldfold"}
    return JSONResponse({"object": "list", "data": [one]})


async def batches(request: Request) -> JSONResponse:
    batcher = request.app.state.batcher
    found = {"texts": batcher.texts_a_batch, "requests": batcher.requests_a_batch}
    return JSONResponse({name: dict(sorted(count.items())) for name, count in found.items()})


async def failed(_: Request, problem: Exception) -> JSONResponse:
    if isinstance(problem, HTTPException):  # an unknown path, another method
        return error(problem.detail, problem.status_code)
    if isinstance(problem, Busy):
        return error(str(problem), 429, "rate_limit_error")
    if isinstance(problem, UsageError):  # TextError too: the caller's texts
        return error(str(problem), 400)
    return error(str(problem), 500, "server_error")


def application(artifact: str, reranker: str | None = None, wait_ms: float = 2.0) -> Starlette:
    """Returns the application of an artifact, for uvicorn or another ASGI server."""

    @contextlib.asynccontextmanager
    async def life(app: Starlette):
        app.state.encoder = encoder = load(artifact)
        app.state.name = encoder.contract.model
        app.state.batcher = Batcher(encoder, max_wait_ms=wait_ms)
        app.state.reranker = Batcher(load(reranker), max_wait_ms=wait_ms) if reranker else None
        yield
        app.state.batcher.close()
        if app.state.reranker is not None:
            app.state.reranker.close()

    routes = [
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/rerank", rerank, methods=["POST"]),
        Route("/v1/models", models),
        Route("/batches", batches),
    ]
    handlers = {GoldfoldError: failed, HTTPException: failed}
    return Starlette(routes=routes, lifespan=life, exception_handlers=handlers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("--reranker")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--wait-ms", type=float, default=2.0, help="longest wait for others' texts")
    asked = parser.parse_args()
    app = application(asked.artifact, asked.reranker, asked.wait_ms)
    uvicorn.run(app, host="127.0.0.1", port=asked.port, log_level="warning", access_log=False)

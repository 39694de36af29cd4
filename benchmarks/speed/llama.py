"""A GGUF file in llama.cpp, by the functions of its C interface: token ids in, embeddings out.

The context is set as llama.cpp's own example of embeddings sets it (`examples/embedding`): the
batch as long as the context, `n_ubatch` as long as the batch, since a model whose tokens see each
other both ways is computed in one piece, and the pooling that the file names. Flash attention is
left to llama.cpp, which takes it on a CPU, with keys and values in f16.
Rows reach it as they are, without padding. A batch can be one call of several sequences, whose
attention is computed over all their tokens with a mask, or a call a text: which is faster depends
on the lengths, so the first call at a size tries both and the faster one is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

TOKENS = 2048
"""Tokens that a context holds, unless a batch is larger."""
SEQUENCES = 32


class Context:
    """A model with a context, grown as the batches ask for it."""

    def __init__(self, path: str, threads: int, flash: int) -> None:
        import llama_cpp  # pyright: ignore[reportMissingImports]

        self._lib = llama_cpp
        # It must not be freed while the library may call it.
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silent, None)
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not model:
            raise ValueError(f"llama.cpp does not load {path}")
        self._model, self._threads, self._flash = model, threads, flash
        self._dim = int(llama_cpp.llama_model_n_embd_out(model))
        self._context: Any = None
        self._reserve(TOKENS, SEQUENCES)
        self._ways: dict[tuple[int, ...], Callable[..., np.ndarray]] = {}

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Normalized embeddings [B, D] of ids [B, S]; what the mask leaves out is not computed."""
        rows = [row[kept.astype(bool)] for row, kept in zip(ids, mask, strict=True)]
        lengths = tuple(len(row) for row in rows)
        if lengths not in self._ways:
            self._ways[lengths] = self._faster(rows)
        return self._ways[lengths](rows)

    def ways(self) -> dict[str, str]:
        """How each size was computed, for batches of texts of one length."""
        return {
            f"{len(key)}x{key[0]}": "together" if way == self._together else "a call a text"
            for key, way in self._ways.items()
            if len(key) > 1 and len(set(key)) == 1
        }

    def _faster(self, rows: list[np.ndarray]) -> Callable[..., np.ndarray]:
        if len(rows) == 1:
            return self._together
        took = []
        for way in (self._together, self._one_by_one):
            way(rows)
            started = time.perf_counter()
            way(rows)
            took.append(time.perf_counter() - started)
        return self._together if took[0] <= took[1] else self._one_by_one

    def _one_by_one(self, rows: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([self._together([row]) for row in rows])

    def _together(self, rows: list[np.ndarray]) -> np.ndarray:
        lib, total = self._lib, sum(map(len, rows))
        self._reserve(total, len(rows))
        batch, at = self._batch, 0
        batch.n_tokens = total
        for number, row in enumerate(rows):
            for position, token in enumerate(row.tolist()):
                batch.token[at], batch.pos[at] = token, position
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, number
                batch.logits[at] = 1
                at += 1
        memory = lib.llama_get_memory(self._context)
        if memory:
            lib.llama_memory_clear(memory, True)
        if failed := lib.llama_decode(self._context, batch):
            raise ValueError(f"llama_decode returned {failed}")
        found = np.empty((len(rows), self._dim), np.float32)
        for number in range(len(rows)):
            pointer = lib.llama_get_embeddings_seq(self._context, number)
            found[number] = np.ctypeslib.as_array(pointer, (self._dim,))
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def _reserve(self, tokens: int, sequences: int) -> None:
        """A context and a batch of at least that many tokens and sequences."""
        lib = self._lib
        if self._context is not None:
            if tokens <= self._tokens and sequences <= self._sequences:
                return
            lib.llama_free(self._context)
            lib.llama_batch_free(self._batch)
            tokens, sequences = max(tokens, self._tokens), max(sequences, self._sequences)
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = tokens
        params.n_seq_max, params.kv_unified, params.embeddings = sequences, True, True
        params.flash_attn_type = self._flash
        params.n_threads = params.n_threads_batch = self._threads
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise ValueError(f"llama.cpp makes no context of {tokens} tokens")
        self._batch = lib.llama_batch_init(tokens, 0, 1)
        self._tokens, self._sequences = tokens, sequences


def load(spec: dict[str, Any]) -> Context:
    """The file `gguf`, on `threads` threads; `flash` is 0, 1, or -1 as llama.cpp has it itself."""
    return Context(spec["gguf"], spec["threads"], spec.get("flash", -1))

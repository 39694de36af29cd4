"""Texts to token ids, by an artifact's tokenizer.json and its contract.

The tokenizer keeps no state that one caller could leave for another: it tokenizes a whole text, and
the tokens are truncated and given their special tokens afterwards, as the tokenizer would do
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from tokenizers import Encoding, Tokenizer

from goldfold.exporter.contract import Contract, Frame, Task
from goldfold.exporter.errors import TextError
from goldfold.exporter.system import natives
from goldfold.golden.store import NAMED, PREDICT

_TASKS: Mapping[str, Task] = {"encode": "", "encode_query": "query", "encode_document": "document"}
_LETTERS = 16
"""Letters per token above which a text is assumed to exceed the maximum length: ordinary tokens
have four; the check in `_begun` decides."""
_MARGIN = 64
"""Tokens at the edge of a cut that do not count: the cut itself may change them."""
_TEXTS, _CHUNK = 1024, 1 << 20
"""Number of texts, and of their letters, that are in the tokenizer's own form at a time: that takes
ten times as much memory as ids."""

NO_TOKENS = "has no tokens at all"

T = TypeVar("T")


class Tokens:
    """A tokenizer together with its contract. Any number of threads may use it at once."""

    def __init__(self, tokenizer: bytes | str, contract: Contract) -> None:
        """Reads `tokenizer`, the text of a tokenizer.json. Raises ValueError if it is not one."""
        raw = tokenizer.encode() if isinstance(tokenizer, str) else tokenizer
        try:
            with natives.hushed():
                self._tokenizer = Tokenizer.from_buffer(raw)
                self._tokenizer.no_padding()
                self._tokenizer.no_truncation()
                self._added = self._tokenizer.num_special_tokens_to_add(False)
                self._added_to_pair = self._tokenizer.num_special_tokens_to_add(True)
                nothing = self._tokenizer.encode("", add_special_tokens=False)
                self._tokenizer.post_process(nothing, None, True)  # may name an unknown token
        except BaseException as error:  # a panic in Rust is no Exception
            if not isinstance(error, Exception) and not natives.is_panic(error):
                raise
            raise ValueError(" ".join(str(error).split())[:200]) from None
        self._contract = contract
        # Around a pair, `pair_ids` puts it.
        self._frame = None if contract.task == "scores" else contract.frame

    def ids(self, texts: Sequence[str], task: Task = "") -> list[list[int]]:
        """Returns the token ids of each text, specials included, truncated to the model's length
        for the task; a query is filled up where the contract says so. Raises TextError as `own_ids`
        does."""
        return self._kept(texts, task, list)

    def arrays(self, texts: Sequence[str], task: Task = "") -> list[np.ndarray]:
        """Returns what `ids` does, each text's as a uint32 array: a token takes 4 bytes there, and
        40 in a list. Raises TextError as `own_ids` does."""
        return self._kept(texts, task, _array)

    def _kept(self, texts: Sequence[str], task: Task, held: Callable[[list[int]], T]) -> list[T]:
        how = self._contract.tokenwise
        if how is None or how.filler is None or task != "query":
            return self._own(texts, task, held)
        filler, tokens = how.filler, how.query_tokens
        return self._own(texts, task, lambda ids: held(ids + [filler] * (tokens - len(ids))))

    def own_ids(self, texts: Sequence[str], task: Task = "") -> list[list[int]]:
        """Returns the token ids of each text, specials included, truncated to the model's length
        for the task, and never filled up.

        Raises TextError, naming the indices, for texts on which the tokenizer fails.
        """
        return self._own(texts, task, list)

    def _own(self, texts: Sequence[str], task: Task, held: Callable[[list[int]], T]) -> list[T]:
        """Returns what `held` makes of the token ids of each text, as `own_ids` gives them."""
        length = self._contract.length_of(task)
        found: list[T] = []
        odd: dict[int, str] = {}
        chunk: list[str] = []
        letters = first = 0
        frame = self._frame
        for place, text in enumerate(texts):
            try:
                if frame is not None and frame.strip:
                    text = text.strip()
                text = self._begun(text, length)
                chunk.append(text if frame is None else frame.about(text))
            except TextError as error:
                odd[place] = error.reasons[0]
                chunk.append("")
            letters += len(chunk[-1])
            if letters >= _CHUNK or len(chunk) == _TEXTS or place == len(texts) - 1:
                try:
                    found += [held(self._finished(one, length)) for one in self._encoded(chunk)]
                except TextError as error:
                    odd |= {first + at: why for at, why in error.reasons.items()}
                chunk, letters, first = [], 0, place + 1
        if odd:
            raise TextError(odd, texts)
        return found

    def pair_ids(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Returns the token ids of each pair of texts, specials included. Where a pair has more
        tokens than the model takes, the longer text loses the surplus, and then both in turn.

        Raises TextError, naming the indices, for pairs on which the tokenizer fails, and for a
        first text that holds the token behind which the graph sees the second text.
        """
        contract, found, odd = self._contract, [], {}
        length, side = contract.max_length, contract.truncation_side
        for place, pair in enumerate(pairs):
            try:
                begun = [self._begun(text, length) for text in pair]
                if contract.frame is not None:
                    found.append(self._framed(contract.frame, begun[0], begun[1]))
                    continue
                one, other = self._encoded(begun)
            except TextError as error:
                odd[place] = next(iter(error.reasons.values()))
                continue
            if contract.separator is not None and contract.separator in one.ids:
                token = self._tokenizer.id_to_token(contract.separator)
                odd[place] = f"spells {token!r} in its first text, which separates the two texts"
                continue
            rooms = _shared(len(one.ids), len(other.ids), max(length - self._added_to_pair, 0))
            for encoding, room in zip((one, other), rooms, strict=True):
                if len(encoding.ids) > room:
                    encoding.truncate(room, direction=side)
            found.append(self._tokenizer.post_process(one, other, True).ids[:length])
        if odd:
            raise TextError(odd, [" | ".join(pair) for pair in pairs])
        return found

    def _framed(self, frame: Frame, one: str, other: str) -> list[int]:
        """Returns the token ids of a pair within a chat template, which has all special tokens."""
        length, side = self._contract.max_length, self._contract.truncation_side
        ids = self._encoded([frame.around((one, other))])[0].ids
        return frame.ended(ids[:length] if side == "right" else ids[-length:], length)

    def called(self, texts: Sequence[Any], call: str) -> list[list[int]]:
        """Returns the token ids for one of goldfold.golden.store.CALLS, with its prompt and its
        maximum length, or for a prompt by its name; under "" the texts already have their prompt.
        The inputs of `predict` are pairs. Raises TextError."""
        if call == PREDICT:
            return self.pair_ids(texts)
        if not call:
            return self.ids(texts)
        if call.startswith(NAMED):
            asked = self._contract.prompts.get(call.removeprefix(NAMED))
            return [[] for _ in texts] if asked is None else self.ids([asked + t for t in texts])
        task = _TASKS[call]
        before = self._contract.prompt_of(task)
        return self.ids([before + text for text in texts], task)

    def unreadable(self, rows: Sequence[Sequence[int] | np.ndarray]) -> dict[int, str]:
        """Returns why a row of ids cannot be embedded, by its index: it is empty, or a token is not
        the model's."""
        size = self._contract.vocab_size
        odd: dict[int, str] = {}
        for place, ids in enumerate(rows):
            if not len(ids):
                odd[place] = NO_TOKENS
            elif np.max(ids) >= size:
                token = self._tokenizer.id_to_token(next(int(id_) for id_ in ids if id_ >= size))
                odd[place] = f"holds {token!r}, a token that the model has no row for"
        return odd

    def token(self, id_: int) -> str:
        """Returns the token of an id as the vocabulary spells it; "" for an id without one."""
        return self._tokenizer.id_to_token(id_) or ""

    def _encoded(self, texts: list[str]) -> list[Encoding]:
        with natives.hushed():
            try:
                return self._tokenizer.encode_batch(texts, add_special_tokens=False)
            except BaseException as error:
                if not isinstance(error, Exception) and not natives.is_panic(error):
                    raise
            odd: dict[int, str] = {}
            for place, text in enumerate(texts):  # finds the text that failed
                try:
                    self._tokenizer.encode(text, add_special_tokens=False)
                except BaseException as error:
                    if not isinstance(error, Exception) and not natives.is_panic(error):
                        raise
                    odd[place] = f"is more than the tokenizer can do ({natives.reason(error)})"
        raise TextError(odd or {0: "is more than the tokenizer can do with others beside it"})

    def _finished(self, encoding: Encoding, length: int) -> list[int]:
        if len(encoding.ids) + self._added > length:
            room = max(length - self._added, 0)
            encoding.truncate(room, direction=self._contract.truncation_side)
        ids = self._tokenizer.post_process(encoding, None, True).ids[:length]
        frame = self._frame
        return ids if frame is None else frame.ended(ids, length)

    def _begun(self, text: str, length: int) -> str:
        """Returns the part of a long text that decides its first `length` tokens; of a text
        truncated on the left, its last.

        A text of ten million letters takes gigabytes to tokenize, of which 128 tokens are kept. So
        its beginning is tokenized alone, and twice as much: where both give enough tokens, and the
        same, more text would not change them. Tokens are made from the left; in a text truncated on
        the left, one long word may come out in as many ways as its longest token has letters: more
        places to cut are tried then.
        """
        letters = _LETTERS * length + _LETTERS * _MARGIN
        enough = length + _MARGIN
        tries = 1 if self._contract.truncation_side == "right" else _LETTERS
        while 4 * letters < len(text):
            part = self._part(text, letters)
            edge = self._edge(part, enough)
            more = (self._edge(self._part(text, 2 * letters + one), length) for one in range(tries))
            if len(edge) == enough and all(ids == edge[:length] for ids in more):
                return part
            letters *= 2
        return text

    def _part(self, text: str, letters: int) -> str:
        return text[:letters] if self._contract.truncation_side == "right" else text[-letters:]

    def _edge(self, text: str, count: int) -> list[int]:
        ids = self._encoded([text])[0].ids
        return ids[:count] if self._contract.truncation_side == "right" else ids[::-1][:count]


def _array(ids: list[int]) -> np.ndarray:
    return np.array(ids, dtype=np.uint32)


def _shared(one: int, other: int, room: int) -> tuple[int, int]:
    """Returns how many tokens two texts keep of the `room` that they share: the longer one loses
    the surplus until both are as long, then both lose (tokenizers' LongestFirst)."""
    if one + other <= room:
        return one, other
    short = min(one, other)
    kept = (short, room - short) if 2 * short <= room else (room // 2, room - room // 2)
    return kept if one <= other else (kept[1], kept[0])

"""The cut of a vocabulary to a corpus: the tokens that its first lines need.

No proof covers other texts. A text of which the source makes kept tokens alone keeps them, because
the steps by which it gets there are kept as well (vocabulary_kinds.py); how many such texts there
are is measured on the last lines, which choose nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend import vocabulary, vocabulary_kinds
from goldfold.exporter.frontend.vocabulary import Cut
from goldfold.exporter.system.files import read_bounded

LIMIT = 1 << 30
"""The most bytes of a corpus."""
LEAST = 1_000
"""The fewest tokens that a corpus may leave: fewer spell nearly every text letter by letter."""
HELD = 5
"""One line of so many, the last ones, is held out."""
_BATCH = 1 << 12


@dataclass(frozen=True)
class Held:
    """The lines of a corpus that chose nothing."""

    lines: tuple[str, ...]
    same: int
    """Number of lines that keep all of their ids."""
    ids: int
    kept: int
    """Number of ids that are kept, of `ids`."""

    @property
    def sentence(self) -> str:
        share = self.kept / max(self.ids, 1)
        return (
            f"of {len(self.lines):,} held-out lines {self.same:,} keep all of their ids, and "
            f"{share:.2%} of the {self.ids:,} ids are kept"
        )


def lines_of(file: Path) -> tuple[list[str], str]:
    """Returns the lines of a corpus that are not blank, and the sha256 of the file. Raises
    UsageError for a file that is no corpus."""
    try:
        raw = read_bounded(file, LIMIT)
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(
            f"--vocabulary {file}: line {line:,} is not UTF-8; convert the file"
        ) from None
    except OSError as error:
        raise UsageError(f"--vocabulary {file}: cannot be read ({error.strerror})") from None
    lines = [line for one in text.splitlines() if (line := one.strip("\ufeff").rstrip())]
    if len(lines) < HELD:
        raise UsageError(
            f"--vocabulary {file}: holds {len(lines)} lines of text, and needs {HELD} or more: the "
            "last fifth is held out"
        )
    return lines, hashlib.sha256(raw).hexdigest()


def by_corpus(
    tokenizer: str, file: Path, fixed: Iterable[int] = (), prompts: Sequence[str] = ()
) -> tuple[Cut, Held]:
    """Returns the tokenizer for texts such as the lines of `file`, and what the held-out ones keep.

    `fixed` and `prompts` are as in vocabulary.by_scripts: every prompt stands before some lines.
    Raises UsageError for a file that is no corpus, and a tokenizer that cannot be cut.
    """
    settings = json.loads(tokenizer)
    vocabulary_kinds.check(settings)
    lines, digest = lines_of(file)
    first = len(lines) - max(1, len(lines) // HELD)
    chosen, held = lines[:first], lines[first:]
    before = ["", *dict.fromkeys(prompt for prompt in prompts if prompt)]
    read = Tokenizer.from_str(tokenizer)
    read.no_padding()
    read.no_truncation()
    used: set[int] = set(fixed)
    for ids in _ids(read, [*before[1:], *_behind(chosen, before), *chosen]):
        used.update(ids)
    model = settings["model"]
    kept = {token for id_ in used if (token := read.id_to_token(id_)) is not None}
    if not model.get("byte_fallback"):
        kept |= vocabulary_kinds.letters(model, frozenset("".join(chosen)))
    kept = vocabulary_kinds.steps(settings, kept)
    cut = replace(vocabulary.cut_to(settings, kept, fixed), corpus=digest)
    if len(cut.kept) < LEAST:
        raise UsageError(
            f"--vocabulary {file}: leaves {len(cut.kept):,} of {cut.of:,} tokens, fewer than "
            f"{LEAST:,}; give a larger corpus"
        )
    places, unknown = cut.new_ids(), vocabulary_kinds.unknown(settings)
    same = ids_kept = count = 0
    for ids in _ids(read, held):
        there = places[np.array(ids, np.int64)] >= 0
        ids_kept, count = ids_kept + int(there.sum()), count + len(ids)
        same += bool(there.all()) and unknown not in ids
    found = Held(tuple(held), same, count, ids_kept)
    return replace(cut, notes=(found.sentence,)), found


def _behind(lines: Sequence[str], prompts: Sequence[str]) -> Iterator[str]:
    return (prompts[at % len(prompts)] + line for at, line in enumerate(lines))


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    for start in range(0, len(texts), _BATCH):
        for one in tokenizer.encode_batch_fast(texts[start : start + _BATCH]):
            yield one.ids

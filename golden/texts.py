"""The texts that artifacts are measured on, and the drafts of one model's cases from them.

Three sorts come together in `drafts`:

- authored texts, from `texts.toml`: languages, scripts, code, emoji, blanks, odd unicode;
- one text per distinct prompt that the model declares;
- length-targeted texts, fitted to exact token counts with the model's own tokenizer, because a
  mask, a window or a position table goes wrong at an exact count (a window of 256 shows at 257,
  a truncation at L+1) and nowhere else.
"""

from __future__ import annotations

import functools
import itertools
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from goldfold.golden.errors import GoldenError
from goldfold.golden.measured import reach

Count = Callable[[str], int]
"""Text -> number of the tokenizer's ids for the text, specials included, untruncated."""

TARGETS = (16, 64, 128, 255, 256, 257, 258, 511, 512, 513, 900)
"""Token counts that every model is tried at: around powers of two, where windows and tiles end."""

TITLE_SLOT = "title: none"
"""The part of a document prompt that has room for a title (EmbeddingGemma's spelling)."""

STRIDE = 11
"""Sentences between the beginnings of two length-targeted texts."""

# A short word is one token in nearly every vocabulary; short words fill the gap of whole words.
_SHORT = ("a", "to", "of", "is", "on", "it", "so", "we", "no", "at", "and", "the")
_BACKTRACKS = 24


@dataclass(frozen=True, slots=True)
class Text:
    """An authored text. `prompt` is a prompt's name and `title` a document's; both may be ""."""

    id: str
    kind: str
    text: str
    prompt: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A case before the reference has run. `prompt` is the literal prefix, "" for none; with a
    `call` (goldfold.golden.store.Case) the reference chooses the prompt."""

    id: str
    kind: str
    text: str
    prompt: str = ""
    call: str = ""
    place: str = ""
    """File and line of a user's own text, which is refused where it gives no golden."""


@functools.cache
def _document() -> Mapping[str, list[dict[str, str]]]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def authored() -> tuple[Text, ...]:
    """Every authored text, in the file's order. Raises GoldenError on a repeated id."""
    texts = tuple(Text(**entry) for entry in _document()["text"])
    if repeated := _repeated([text.id for text in texts]):
        raise GoldenError(f"texts.toml uses the id {repeated!r} twice")
    return texts


def passages() -> tuple[str, ...]:
    """The prose passages, each of several paragraphs."""
    return tuple(entry["text"].strip() for entry in _document()["passage"])


@functools.cache
def sentences() -> tuple[str, ...]:
    """The passages' sentences, dealt out in turn so that neighbours differ in topic or language."""
    decks = [passage.replace("\n\n", " ").split(". ") for passage in passages()]
    dealt = itertools.chain.from_iterable(itertools.zip_longest(*decks))
    return tuple(sentence.rstrip(".") + "." for sentence in dealt if sentence)


def length_targets(max_length: int, floor: int) -> tuple[int, ...]:
    """Token counts to build texts for: `TARGETS` up to L, then L-7, L, and one past L.

    `floor` is the count of the empty text: no text has fewer tokens, and texts need one word more
    to differ at all. The last target is about 1.12 L, far enough beyond L for truncation to drop
    whole sentences. For a long model, never more than three (L-7, L, beyond) lie near or past L,
    because those dominate the time that a measurement takes. A model that is not measured up to L
    (`measured.reach`) has one text of the longest measured length in their place.
    """
    if (capped := reach(max_length)) < max_length:
        return (*(target for target in TARGETS if floor < target < capped), capped)
    near = max_length - 7
    wanted = {t for t in TARGETS if t <= max_length and not (max_length > 1000 and t >= near)}
    wanted |= {near, max_length}
    kept = sorted(t for t in wanted if t > floor)
    return (*kept, max_length + max(2, round(0.12 * max_length)))


def fit(count: Count, target: int, start: int) -> str:
    """Prose with exactly `target` tokens, begun at sentence number `start` (modulo their number).

    Whole words are taken while they fit (bisection finds their number, so a text costs about a
    dozen tokenizations), and short words fill the rest. Where that misses, because a word's count
    depends on its neighbour, words are removed one by one and the fill is tried again.

    Raises GoldenError when no text of that count was found in a bounded number of tries.
    """
    words = list(itertools.islice(_words(start), target))
    kept = _longest_prefix(count, words, target)
    for backtrack in range(min(_BACKTRACKS, kept + 1)):
        text = _fill(count, " ".join(words[: kept - backtrack]), target)
        if text is not None:
            return text
    raise GoldenError(f"no text of exactly {target} tokens found with this tokenizer")


def drafts(
    prompts: Mapping[str, str],
    count: Count,
    max_length: int,
    calls: Mapping[str, int] | None = None,
) -> tuple[Draft, ...]:
    """All cases of a model that declares `prompts` (name -> prefix) and reads `max_length` tokens.

    `calls` are the users' calls, and the number of tokens that each reads. Raises GoldenError where
    no text of a length is found, or where two cases get the same id.
    """
    cases = (
        *(_from_text(text, prompts) for text in authored()),
        *_per_prompt(prompts),
        *_per_call(count, max_length, calls or {}),
        *_per_length(count, max_length),
    )
    if repeated := _repeated([case.id for case in cases]):
        raise GoldenError(f"two golden texts would be called {repeated!r}")
    return cases


def _from_text(text: Text, prompts: Mapping[str, str]) -> Draft:
    prefix = prompts.get(text.prompt, "") if text.prompt else ""
    if text.title and TITLE_SLOT in prefix:
        prefix = prefix.replace(TITLE_SLOT, f"title: {text.title}", 1)
    return Draft(text.id, text.kind, text.text, prefix)


def _per_prompt(prompts: Mapping[str, str]) -> Iterator[Draft]:
    """One case for each distinct non-empty prefix, under the first name that has it."""
    first: dict[str, str] = {}
    for name, prefix in prompts.items():
        if prefix:
            first.setdefault(prefix, name)
    pool = sentences()
    for number, (prefix, name) in enumerate(first.items()):
        yield Draft(f"prompt-{name}", "prompt", pool[number % len(pool)], prefix)


def _per_call(count: Count, max_length: int, calls: Mapping[str, int]) -> Iterator[Draft]:
    """A sentence per call, and a text beyond the call's length where that differs from L."""
    pool = sentences()
    for number, (call, length) in enumerate(calls.items()):
        name = call.replace("_", "-")
        yield Draft(f"call-{name}", "call", pool[(5 * number + 2) % len(pool)], call=call)
        if length != max_length and length <= reach(length):
            text = fit(count, length + max(2, round(0.12 * length)), start=STRIDE * number + 7)
            yield Draft(f"beyond-{name}", "beyond", text, call=call)


def _per_length(count: Count, max_length: int) -> Iterator[Draft]:
    for number, target in enumerate(length_targets(max_length, count(""))):
        kind = "beyond" if target > max_length else "length"
        # STRIDE shares no factor with the number of sentences (a test checks this), so that no two
        # of these texts begin alike.
        yield Draft(f"length-{target}", kind, fit(count, target, start=STRIDE * number + 3))


def _words(start: int) -> Iterator[str]:
    pool = sentences()
    begin = start % len(pool)
    for sentence in itertools.cycle((*pool[begin:], *pool[:begin])):
        yield from sentence.split()


def _longest_prefix(count: Count, words: Sequence[str], target: int) -> int:
    """The number of leading words that stay within `target` tokens, if counts grow with words."""
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if count(" ".join(words[:middle])) <= target:
            low = middle
        else:
            high = middle - 1
    return low


def _fill(count: Count, text: str, target: int) -> str | None:
    """`text` plus short words, up to exactly `target` tokens; None where they exceed it."""
    have = count(text)
    for word in itertools.islice(itertools.cycle(_SHORT), 4 * _BACKTRACKS):
        if have >= target:
            break
        longer = f"{text} {word}".strip()
        now = count(longer)
        if have < now <= target:
            text, have = longer, now
    return text if have == target else None


def _repeated(ids: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((i for i in ids if i in seen or seen.add(i)), None)

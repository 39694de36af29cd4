"""Repairs of OpenVINO Tokenizers' graph of a tokenizer, and the texts that check it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from tokenizers import Tokenizer

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, Contract

XML = "openvino_tokenizer.xml"
BEYOND = "a_token_that_the_model_has_no_row_for"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_DRAWN, _BATCH = 400, 512
_ODD = (
    " \t\n\r\0\x1f\x7f\x85\xa0\u0130\u0301\u0345\u03a3\u1112\u1161\u1e9e\u200b\u200d\u2028"
    "\u212b\u3000\uac00\ufb01\ufe0f\ufeff\U0001f468"
)
"""White space, controls, characters that cases and normal forms change, and characters that join
others."""


def mend(folder: Path, vocab_size: int) -> None:
    """Add to the tokenizer of `folder` what it lacks: `_check_ids` where its vocabulary goes on
    beyond the model's table of `vocab_size` rows, `_split_bytes` where it knows bytes by name."""
    import openvino_tokenizers  # noqa: F401 — teaches every Core the ops of text

    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core = ov.Core()  # outlives all nodes: with the last one, the library of their ops is released
    model = core.read_model(folder / XML)
    beyond = max(words.get_vocab(with_added_tokens=True).values(), default=0) >= vocab_size
    if beyond:
        _check_ids(model, vocab_size)
    if _split_bytes(model, words) or beyond:
        fresh = folder / f"fresh-{XML}"
        ov.save_model(model, fresh, compress_to_fp16=False)
        for suffix in (".xml", ".bin"):
            fresh.with_suffix(suffix).replace((folder / XML).with_suffix(suffix))
    del model, core


def _check_ids(model: ov.Model, vocab_size: int) -> None:
    """Make the tokenizer fail on a text that holds a token without a row in the model's table:
    OpenVINO's lookup would silently take zeros for it.

    A tokenizer of OpenVINO's raises nothing by itself, so its ids get a shape that they do not fit;
    OpenVINO's message then contains the op's name.
    """
    (result,) = (out for out in model.outputs if INPUT_IDS in out.get_names())
    ids, names = result.get_node().input_value(0), result.get_names()
    made: list[ov.Node] = []

    def named(node: ov.Node) -> ov.Node:
        """Names an op: OpenVINO's own names count all nodes of a process, and are not the same
        twice."""
        node.set_friendly_name(f"{BEYOND}.{len(made)}")
        made.append(node)
        return node

    def constant(value: np.ndarray, kind: ov.Type) -> ov.Node:
        return named(ops.constant(value, dtype=kind))

    axes = constant(np.array([0, 1]), ov.Type.i64)
    largest = named(ops.reduce_max(ids, axes, False))
    limit = constant(np.array(vocab_size), ids.get_element_type())
    odd = named(ops.convert(named(ops.greater_equal(largest, limit)), "i64"))
    one_wider = named(ops.multiply(constant(np.array([0, 1]), ov.Type.i64), odd))
    shape = named(ops.add(named(ops.shape_of(ids, "i64")), one_wider))
    checked = ops.reshape(ids, shape, False)
    checked.set_friendly_name(BEYOND)
    result.get_node().input(0).replace_source_output(checked.output(0))
    checked.output(0).get_tensor().set_names(names)


def _split_bytes(model: ov.Model, words: Tokenizer) -> bool:
    """Make the tokenizer read `<0x41>` in a text as the letters that it is; returns whether it was
    changed.

    Its BPE begins with the longest entries of the vocabulary that no merge makes, and takes the
    name of a byte for the byte. A split behind the `<` prevents that, and changes nothing else: no
    merge reaches over it, which is checked in the vocabulary.
    """
    known = words.get_vocab(with_added_tokens=False)
    added = {token.content for token in words.get_added_tokens_decoder().values()}
    names = [name for name in known if _BYTE.fullmatch(name) and name not in added]
    merged = [one for one in known if "<0" in one and not _BYTE.fullmatch(one)]
    splits = [node for node in model.get_ordered_ops() if node.get_type_name() == "RegexSplit"]
    if not names or merged or not splits:
        return False
    split = splits[-1]
    given = split.input_value(split.get_input_size() - 1).get_node()
    behaviour = split.get_attributes()["behaviour"]
    if given.get_type_name() != "Constant" or behaviour != "mergedwithprevious":
        return False  # of another form; drawn texts show whether that matters
    pattern = given.data.tobytes() + b"|<(?=0x[0-9A-F]{2}>)"
    fresh = ops.constant(np.frombuffer(pattern, np.uint8), dtype=ov.Type.u8)
    fresh.set_friendly_name(f"{given.get_friendly_name()}.bytes")
    split.input(split.get_input_size() - 1).replace_source_output(fresh.output(0))
    return True


def drawn(folder: Path, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Returns texts drawn at random, and their ids by `tokenizer.json` of `folder`: entries of the
    vocabulary beside each other, names of bytes and of special tokens within words, and characters
    from all of Unicode. No text is empty or ends in NUL, which OpenVINO's Python drops, and none
    holds a token without a row."""
    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words.no_padding()
    draw = random.Random(22)
    known = sorted(words.get_vocab(with_added_tokens=False))
    added = sorted(token.content for token in words.get_added_tokens_decoder().values())
    names = [name for name in known if _BYTE.fullmatch(name)]
    texts = [f"in {name}word" for name in names]
    for name in draw.sample(added, min(len(added), _DRAWN)):
        texts += [name, f"in{name} words"]
    for _ in range(_DRAWN):
        some = draw.choices(known, k=draw.randint(1, 12))
        texts.append("".join(some).replace("\u2581", " "))
        texts.append("".join(_character(draw) for _ in range(draw.randint(1, 30))))
    texts = [text for text in dict.fromkeys(texts) if text and not text.endswith("\0")]
    made = zip(texts, words.encode_batch(texts), strict=True)
    return {text: tuple(one.ids) for text, one in made if max(one.ids, default=0) < vocab_size}


def _character(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.4:
        return chr(draw.randint(0x20, 0x2FF))
    if kind < 0.6:
        return draw.choice(_ODD)
    code = draw.randint(0, 0x10FFFF - 0x800)
    return chr(code if code < 0xD800 else code + 0x800)  # except halves of characters


def is_handed_over(text: str) -> bool:
    """Returns whether OpenVINO's Python hands a text over as it is: it drops a NUL at its end."""
    return bool(text) and not text.endswith("\0")


def askable(texts: Mapping[str, tuple[int, ...]], contract: Contract) -> dict[str, tuple[int, ...]]:
    """Returns those of `texts`, with their uncut ids, that the tokenizer of an artifact with this
    contract reads: the others are cut, or refused for a token without a row."""
    length, size = contract.length_of(""), contract.vocab_size
    return {
        text: made
        for text, made in texts.items()
        if is_handed_over(text) and len(made) <= length and max(made, default=0) < size
    }


def ids(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids that the tokenizer in `folder` gives each text. Raises RuntimeError,
    OpenVINO's own, if it does not run."""
    import openvino_tokenizers  # noqa: F401 — teaches every Core the ops of text

    model = ov.Core().compile_model(str(folder / XML), "CPU")
    found: dict[str, list[int]] = {}
    for batch in _batches(sorted(texts, key=len)):
        made = model([*batch])
        counts = np.asarray(made[ATTENTION_MASK]).sum(axis=1)
        for text, row, count in zip(batch, np.asarray(made[INPUT_IDS]), counts, strict=True):
            found[text] = row[:count].tolist()
    return [found[text] for text in texts]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def differs(folder: Path, token_ids: Mapping[str, tuple[int, ...]]) -> str | None:
    """Returns the first text to which the tokenizer in `folder` gives other ids, in words; None if
    there is none."""
    wrong = []
    made = zip(token_ids.items(), ids(folder, list(token_ids)), strict=True)
    for (text, expected), found in made:
        if found != [*expected]:
            same = (a == b for a, b in zip(found, expected, strict=False))
            place = len(list(takewhile(bool, same)))
            wrong.append(f"{text[:40]!r} from token {place} on")
    if not wrong:
        return None
    return f"it gives {len(wrong)} of {len(token_ids)} texts other ids, first {wrong[0]}"

"""Tokenizers of every kind, trained in a second on the golden and calibration texts."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from goldfold.exporter.quantize.texts import corpus_texts
from goldfold.golden import texts

SIZE = 4000
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
GEMMA = ["<pad>", "<eos>", "<bos>", "<unk>", *BYTES]
KINDS = ("bpe", "bytes", "prefixed", "wordpiece", "wordlevel", "unigram", "sentencepiece")


def lines() -> list[str]:
    authored = [text.text for text in texts.authored()]
    return [*authored, *texts.passages(), *corpus_texts()]


def charsmap(mappings: dict[str, str]) -> str:
    """SentencePiece's precompiled map of a few texts: a double array in which every node has 256
    places of its own, and the values behind it."""
    values, places = b"", {}
    for key, value in mappings.items():
        places[key.encode()] = len(values)
        values += value.encode() + b"\0"
    nodes = {b"": 0}
    for key in places:
        for end in range(1, len(key) + 1):
            nodes.setdefault(key[:end], len(nodes))
    # A node's base is a multiple of 256; its children lie at base ^ byte, its value at base itself.
    units = [1 << 31 | 0xFF] * (256 * (len(nodes) + 1))
    bases = {node: 256 * (number + 1) for node, number in nodes.items()}
    for node, base in bases.items():
        here = 0 if not node else bases[node[:-1]] ^ node[-1]
        offset = here ^ base
        assert offset < 1 << 21
        units[here] = offset << 10 | (node in places) << 8 | (node[-1] if node else 0)
        if node in places:
            units[base] = 1 << 31 | places[node]
    trie = b"".join(unit.to_bytes(4, "little") for unit in units)
    return base64.b64encode(len(trie).to_bytes(4, "little") + trie + values).decode()


NFKC = {"\ufb01": "fi", "\u00bd": "1/2", "\uff21": "A", "\u2460": "1", "\u212b": "\u00c5",
        "a\u0301": "\u00e1", "\u3000": " ", "\u0416": "\u0436"}  # fmt: skip
"""A map as SentencePiece's has them: forms, fractions, a composition, and another case."""


@cache
def trained(kind: str) -> str:
    """Returns the tokenizer.json of a kind."""
    find: Any
    if kind in ("bpe", "prefixed"):
        affix = {"continuing_subword_prefix": "@@"} if kind == "prefixed" else {}
        found = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True, **affix))
        found.normalizer = normalizers.Replace(" ", "\u2581")
        find = trainers.BpeTrainer(
            vocab_size=SIZE if kind == "bpe" else 2 * SIZE,
            special_tokens=GEMMA,
            show_progress=False,
            **affix,
        )
        ends = ("<bos>", 2), ("<eos>", 1)
    elif kind == "bytes":
        found = Tokenizer(models.BPE())
        found.normalizer = normalizers.NFC()
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        find = trainers.BpeTrainer(
            vocab_size=SIZE,
            special_tokens=["<pad>", "<eos>", "<bos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        ends = ("<bos>", 2), ("<eos>", 1)
    elif kind in ("wordpiece", "wordlevel"):
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        if kind == "wordpiece":
            found = Tokenizer(models.WordPiece(unk_token="[UNK]"))
            find = trainers.WordPieceTrainer(
                vocab_size=SIZE, special_tokens=special, show_progress=False
            )
        else:
            found = Tokenizer(models.WordLevel(unk_token="[UNK]"))
            find = trainers.WordLevelTrainer(
                vocab_size=SIZE, special_tokens=special, show_progress=False
            )
        found.normalizer = normalizers.BertNormalizer()
        found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        ends = ("[CLS]", 2), ("[SEP]", 3)
    else:
        found = Tokenizer(models.Unigram())
        found.normalizer = normalizers.NFKC()
        found.pre_tokenizer = pre_tokenizers.Metaspace()
        find = trainers.UnigramTrainer(
            vocab_size=SIZE,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        )
        ends = ("<s>", 0), ("</s>", 2)
    found.train_from_iterator(lines(), find)
    found.post_processor = processors.TemplateProcessing(
        single=f"{ends[0][0]} $A {ends[1][0]}", special_tokens=list(ends)
    )
    found.add_tokens(["state-of-the-art", "\u043c\u0438\u0440!"])
    settings = json.loads(found.to_str())
    if kind == "sentencepiece":
        settings["normalizer"] = {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": charsmap(NFKC)},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        }
    return json.dumps(settings, ensure_ascii=False)

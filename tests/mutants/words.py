"""Mutations around the graph: the tokenizer, prompts, fields of the contract, and companions."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tests.mutants.change import Change, Rng, Subject, pick
from tests.mutants.graph import Inapplicable

TOKENIZER = "tokenizer.json"
_NUMBERS = re.compile(r"(?<![\w.])[0-9]{2,6}(?![\w.])")
_FACTS = re.compile(r"letters, enough =|static let (maximum|vocabulary|buckets)\b")
"""Lines of programs that state a number of the contract."""
_TEXTS = ("Crème brûlée, ÉCLAIR ﬁne", "  two  blanks\tand\ttabs ", "Hello World", "naïve Ａ", "")


def tokenizer(rng: Rng, subject: Subject) -> Change:
    """An edit of tokenizer.json after which some text has other tokens; that text is the proof."""
    path = subject.folder / TOKENIZER
    sound = path.read_text("utf-8")
    ways = [_exchanged, _unmerged, _forgotten, _unnormalized, _unsplit, _unframed]
    for place in rng.permutation(len(ways)):
        record = json.loads(sound)
        try:
            what, texts = ways[place](rng, record)
        except Inapplicable:
            continue
        text = json.dumps(record, ensure_ascii=False)
        witness = _witness(sound, text, [*texts, *_TEXTS])
        if witness is None:
            continue
        path.write_text(text, encoding="utf-8")
        return Change(f"{what}; {witness!r:.60} has other tokens")
    raise Inapplicable("no edit of this tokenizer changes a text's tokens")


def _witness(before: str, after: str, texts: list[str]) -> str | None:
    try:
        old, new = Tokenizer.from_str(before), Tokenizer.from_str(after)
    except Exception:
        return None
    return next((t for t in texts if old.encode(t).ids != new.encode(t).ids), None)


def _vocabulary(record: dict[str, Any]) -> dict[str, int]:
    vocabulary = record["model"].get("vocab")
    if not isinstance(vocabulary, dict):
        raise Inapplicable("the vocabulary is a list")
    return vocabulary


def _shown(token: str) -> list[str]:
    """Texts that may hold a token."""
    plain = token.replace("##", "").replace("Ġ", " ").replace("▁", " ")
    return [token, plain, plain.strip(), f"a{plain}", f"x{plain}"]


def _rare(rng: Rng, vocabulary: dict[str, int]) -> str:
    """A token of the last third: byte-pair and WordPiece vocabularies list common ones first."""
    ordered = sorted(vocabulary, key=lambda token: vocabulary[token])
    return ordered[int(rng.integers(len(ordered) * 2 // 3, len(ordered)))]


def _exchanged(rng: Rng, record: dict[str, Any]) -> tuple[str, list[str]]:
    vocabulary = _vocabulary(record)
    one, other = _rare(rng, vocabulary), _rare(rng, vocabulary)
    if one == other:
        raise Inapplicable("one token twice")
    first, second = vocabulary[one], vocabulary[other]
    vocabulary[one], vocabulary[other] = second, first
    return f"the ids {first} and {second} are exchanged", _shown(one) + _shown(other)


def _unmerged(rng: Rng, record: dict[str, Any]) -> tuple[str, list[str]]:
    merges = record["model"].get("merges")
    if not merges:
        raise Inapplicable("no merges")
    place = int(rng.integers(len(merges) // 2, len(merges)))
    merge = merges.pop(place)
    token = "".join(merge) if isinstance(merge, list) else merge.replace(" ", "")
    return f"merge {place}, {merge}, is removed", _shown(token)


def _forgotten(rng: Rng, record: dict[str, Any]) -> tuple[str, list[str]]:
    if record["model"].get("merges"):
        raise Inapplicable("merges need their tokens")
    vocabulary = _vocabulary(record)
    token = _rare(rng, vocabulary)
    number = vocabulary.pop(token)
    vocabulary[f"{token}{token}{token}"] = number
    return f"the token {number} is another word", _shown(token)


def _unnormalized(rng: Rng, record: dict[str, Any]) -> tuple[str, list[str]]:
    if not record.get("normalizer"):
        raise Inapplicable("no normalizer")
    record["normalizer"] = None
    return "the normalizer is dropped", []


def _unsplit(rng: Rng, record: dict[str, Any]) -> tuple[str, list[str]]:
    if not isinstance(record.get("pre_tokenizer"), dict):
        raise Inapplicable("no pre-tokenizer")
    said = record["pre_tokenizer"]
    if "add_prefix_space" not in said:
        raise Inapplicable("no prefix")
    said["add_prefix_space"] = not said["add_prefix_space"]
    return f"a blank before the text: {said['add_prefix_space']}", ["a text", "glaciers"]


def _unframed(rng: Rng, record: dict[str, Any]) -> tuple[str, list[str]]:
    if not record.get("post_processor"):
        raise Inapplicable("no special tokens are added")
    record["post_processor"] = None
    return "no special tokens are added", ["a text"]


def prompts(rng: Rng, subject: Subject) -> Change:
    """A prompt of the contract with another letter, exchanged, gone, or made up."""
    contract = subject.contract
    names = sorted(contract.prompts)
    changed = dict(contract.prompts)
    ways = ["letter", "gone", "exchanged", "more"] if names else ["more"]
    way = pick(rng, ways)
    if way == "more":
        changed["summarize"] = "task: summarize | text: "
        what = "there is a prompt summarize"
    elif way == "gone":
        name = pick(rng, names)
        del changed[name]
        what = f"the prompt {name} is gone"
    elif way == "exchanged" and len(names) > 1:
        one, other = names[0], names[-1]
        changed[one], changed[other] = changed[other], changed[one]
        what = f"the prompts {one} and {other} are exchanged"
    else:
        name = pick(rng, names)
        changed[name] = changed[name].rstrip() if rng.random() < 0.5 else f"{changed[name]}."
        what = f"the prompt {name} is {changed[name]!r}"
    if changed == contract.prompts:
        raise Inapplicable("the prompts stay as they are")
    subject.contract = contract.with_(prompts=changed)
    return Change(what)


def contract(rng: Rng, subject: Subject) -> Change:
    """One field of the contract says something else than the source."""
    held = subject.contract
    ways: list[dict[str, Any]] = [
        {"normalized": not held.normalized},
        {"pad_id": held.pad_id + 1},
        {"max_length": held.max_length - 1},
        {"max_length": held.max_length + 1},
        {"vocab_size": held.vocab_size + 1},
        {"vocab_size": held.vocab_size - 1},
        {"dim": held.dim - 1},
        {"dim": held.dim + 1},
        {"truncation_side": "left" if held.truncation_side == "right" else "right"},
        {"lengths": {**held.lengths, "query": max(2, held.max_length // 4)}},
        {"lengths": {**held.lengths, "document": held.max_length - 1}},
    ]
    if held.prompts:
        ways.append({"default_prompt_name": sorted(held.prompts)[0]})
    changed = held.with_(**pick(rng, ways))
    if changed == held:
        raise Inapplicable("the contract says so already")
    subject.contract = changed
    said = [
        name for name in held.__struct_fields__ if getattr(held, name) != getattr(changed, name)
    ]
    name = said[0]
    return Change(f"{name} is {getattr(changed, name)!r}, and was {getattr(held, name)!r}")


def companions(rng: Rng, subject: Subject) -> Change:
    """A file by which others open the artifact: another model's tokenizer, a length, a side, a
    prompt, a number in a program."""
    ways = [_other_tokenizer, _settings, _settings, _beside, _program]
    for place in rng.permutation(len(ways)):
        try:
            return ways[place](rng, subject)
        except Inapplicable:
            continue
    raise Inapplicable("no companions")


def _other_tokenizer(rng: Rng, subject: Subject) -> Change:
    """openvino_tokenizer.xml and .bin of another model, or with two ids exchanged."""
    path = subject.folder / "openvino_tokenizer.xml"
    other: Path | None = subject.base.stranger
    if not path.is_file() or other is None:
        raise Inapplicable("no OpenVINO tokenizer, or none to exchange it with")
    for suffix in (".xml", ".bin"):
        shutil.copyfile(other.with_suffix(suffix), path.with_suffix(suffix))
    return Change("openvino_tokenizer.xml is that of another model")


def _settings(rng: Rng, subject: Subject) -> Change:
    path = subject.folder / "tokenizer_config.json"
    record = json.loads(path.read_text("utf-8"))
    changed: dict[str, Any] = pick(rng, [
        {"model_max_length": int(record["model_max_length"]) // 2},
        {"padding_side": "left"},
        {"truncation_side": "left" if record.get("truncation_side") == "right" else "right"},
        {"pad_token": "<other>"},
        {"do_lower_case": not record.get("do_lower_case", False)},
    ])  # fmt: skip
    path.write_text(json.dumps({**record, **changed}, indent=2), encoding="utf-8")
    return Change(f"tokenizer_config.json says {changed}")


def _beside(rng: Rng, subject: Subject) -> Change:
    """A JSON file for other tools."""
    names = ("config_sentence_transformers.json", "sentence_bert_config.json", "modules.json",
             "config.json")  # fmt: skip
    found = [name for name in names if (subject.folder / name).is_file()]
    if not found:
        raise Inapplicable("no file for other tools")
    name = pick(rng, found)
    path = subject.folder / name
    record = json.loads(path.read_text("utf-8"))
    if name == "modules.json":
        record.append({"idx": 1, "name": "1", "path": "1_Pooling",
                       "type": "sentence_transformers.models.Pooling"})  # fmt: skip
        what = "lists a second pooling"
    elif name == "config_sentence_transformers.json":
        record["default_prompt_name"] = next(iter(record.get("prompts") or {"query": ""}))
        record["prompts"] = {**record.get("prompts", {}), "query": "find: "}
        what = f"has the prompt {record['prompts']['query']!r}"
    elif name == "config.json":
        record["projection_dim"] = 7
        what = "has the projection_dim 7"
    else:
        record["max_seq_length"] = 16
        what = "has the max_seq_length 16"
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return Change(f"{name} {what}")


def _program(rng: Rng, subject: Subject) -> Change:
    """A program for other users, with another length, vocabulary or size in it."""
    found = [subject.folder / name for name in ("load.py", "GoldfoldEncoder.swift")]
    found = [path for path in found if path.is_file()]
    if not found:
        raise Inapplicable("no program")
    path = pick(rng, found)
    lines = path.read_text("utf-8").splitlines(keepends=True)
    places = [place for place, line in enumerate(lines) if _FACTS.search(line)]
    place = pick(rng, places)
    old = pick(rng, _NUMBERS.findall(lines[place]))
    lines[place] = lines[place].replace(old, str(int(old) + 3), 1)
    path.write_text("".join(lines), encoding="utf-8")
    return Change(f"{path.name} says {int(old) + 3} for {old}: {lines[place].strip():.60}")

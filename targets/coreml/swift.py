"""Swift files beside a package: a loader with the model's prompts, and the package of it.

swift-transformers' `AutoTokenizer.from(modelFolder:)` reads `config.json`, without which it fails,
`tokenizer.json`, and `tokenizer_config.json`, whose `tokenizer_class` must be one that it knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import Tokenizer

from goldfold.exporter.contract import Contract, Reference
from goldfold.exporter.system.files import read_bounded
from goldfold.targets.coreml.layout import function_name
from goldfold.targets.coreml.lower import lowering
from goldfold.targets.coreml.options import CoreMlOptions

LOADER = "GoldfoldEncoder.swift"
PACKAGE = "Package.swift"
CONFIG = "config.json"
_LIMIT = 16 << 20
_SYSTEMS = {"iOS16": ("16.0", "13.0"), "iOS17": ("17.0", "14.0"), "iOS18": ("18.0", "15.0")}
"""The oldest iOS and macOS of each op set."""
_KNOWN = {
    "BertTokenizer", "DistilbertTokenizer", "DistilBertTokenizer", "RobertaTokenizer",
    "CodeGenTokenizer", "CodeLlamaTokenizer", "FalconTokenizer", "GemmaTokenizer", "GPT2Tokenizer",
    "LlamaTokenizer", "T5Tokenizer", "WhisperTokenizer", "CohereTokenizer", "Qwen2Tokenizer",
    "PreTrainedTokenizer",
}  # fmt: skip
"""The classes of tokenizers that swift-transformers knows, without the ending Fast."""


def reads(contract: Contract) -> bool:
    """Returns whether the loader can serve an artifact: it reads one vector, of a text as it is."""
    return contract.task != "multi_vector" and contract.frame is None


def write(folder: Path, contract: Contract, tokenizer: str, options: CoreMlOptions) -> None:
    """Write the loader and its package, where the loader can serve the artifact."""
    if not reads(contract):
        return
    (folder / LOADER).write_text(text(contract, tokenizer, options), encoding="utf-8")
    ios, macos = _SYSTEMS[options.minimum_target or "iOS18"]
    said = _filled(PACKAGE, {"IOS": ios, "MACOS": macos})
    (folder / PACKAGE).write_text(said, encoding="utf-8")


def finish(folder: Path, contract: Contract, reference: Reference) -> tuple[str, ...]:
    """Write config.json, and return the manifest's notes on what swift-transformers lacks."""
    if not reads(contract):
        return ()
    said = json.dumps(dict(reference.config), ensure_ascii=False, indent=1, sort_keys=True)
    (folder / CONFIG).write_text(f"{said}\n", encoding="utf-8")
    settings = json.loads(read_bounded(folder / "tokenizer_config.json", _LIMIT))
    name = str(settings.get("tokenizer_class", "")).replace("Fast", "")
    if name in _KNOWN:
        return ()
    return (
        f"swift-transformers may not know the tokenizer's class {name[:40]!r}; tokenizer.json says "
        "which kind it is.",
    )


def text(contract: Contract, tokenizer: str, options: CoreMlOptions) -> str:
    """Returns the Swift loader, filled in from the contract and a tokenizer.json."""
    several = len(options.buckets) > 1
    rows = []
    for bucket in options.buckets:
        name = f'"{function_name(bucket, options.buckets)}"' if several else "nil"
        rows.append(f"({bucket}, {name})")
    before, behind = _specials(tokenizer)
    words = {
        "PAD_ID": str(contract.pad_id),
        "BUCKETS": ", ".join(rows),
        "MAX_LENGTH": str(min(contract.max_length, max(options.buckets, default=1 << 31))),
        "BEFORE": str(before),
        "BEHIND": str(behind),
        "CUTS_BEGINNING": str(contract.truncation_side == "left").lower(),
        "VOCABULARY": str(contract.vocab_size),
        "OUTPUT": lowering.spelled(contract.output),
        "PROMPTS": _dictionary((_quoted(n), _quoted(p)) for n, p in contract.prompts.items()),
        "PLAIN": _quoted(contract.prompt_name("")),
        "QUERY": _quoted(contract.prompt_name("query")),
        "DOCUMENT": _quoted(contract.prompt_name("document")),
        "LENGTHS": _dictionary(
            (f".{task or 'plain'}", str(n)) for task, n in sorted(contract.lengths.items())
        ),
        "OUTPUTS": _dictionary(
            (_quoted(name), _quoted(lowering.spelled(contract.output_after(tokens))))
            for name, tokens in contract.unpooled.items()
        ),
        # The property came with the systems that open several functions.
        "SET_FUNCTION": "configuration.functionName = function" if several else "_ = function",
    }
    return _filled(LOADER, words)


def _filled(name: str, words: Mapping[str, str]) -> str:
    made = (Path(__file__).parent / f"{name}.template").read_text(encoding="utf-8")
    for word, value in words.items():
        made = made.replace(f"@{word}@", value)
    return made


def _dictionary(entries: Iterable[tuple[str, str]]) -> str:
    """Returns the inside of a dictionary's literal."""
    return ", ".join(f"{name}: {value}" for name, value in entries) or ":"


def _quoted(said: str) -> str:
    """Returns a string's literal in Swift: no character of it ends the string, or starts an
    expression in it."""
    kept = []
    for letter in said:
        if letter in '"\\':
            kept.append(f"\\{letter}")
        elif letter.isprintable() and letter != "@":
            kept.append(letter)
        else:  # "@" as well: it begins the words that this template is filled by
            kept.append(f"\\u{{{ord(letter):X}}}")
    return f'"{"".join(kept)}"'


def _specials(tokenizer: str) -> tuple[int, int]:
    """Returns how many tokens a tokenizer.json puts before a text, and how many behind it; none for
    a program without a tokenizer."""
    if not tokenizer:
        return 0, 0
    mask = Tokenizer.from_str(tokenizer).encode("a").special_tokens_mask
    before = next((place for place, special in enumerate(mask) if not special), len(mask))
    return before, sum(mask[before:])

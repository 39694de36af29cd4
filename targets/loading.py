"""`load.py` in an artifact: its runtime, tokenizers and numpy open it, without goldfold.

The text is put together of templates: `targets/loader/` has what all runtimes share and what each
task calls, and a target's own folder has `loader.template`, which defines `run(ids, mask, output)`.
The program reads the contract from the manifest beside it, so it holds no number of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from goldfold.exporter.contract import Contract

LOADER = "load.py"
_SHARED = Path(__file__).parent / "loader"
_DOES = {
    "embedding": "Texts in, embeddings out",
    "scores": "Pairs of texts in, scores out",
    "sparse": "Texts in, sparse vectors out",
    "multi_vector": "Texts in, a vector for each token out",
}
_STANDARD = (
    "import contextlib",
    "import json",
    "from pathlib import Path",
)
USES = {
    "embedding": (
        'vectors = load.embed(["a text", "another"])',
        'query = load.embed_query("a question")',
    ),
    "scores": (
        'scores = load.predict([("a question", "a document")])',
        'best = load.rank("a question", ["a document", "another"])',
    ),
    "sparse": (
        '(weights,) = load.embed(["a text"])',
        "indices, values = weights",
    ),
    "multi_vector": (
        'query = load.encode_query(["a question"])',
        'best = load.rank("a question", ["a document", "another"])',
    ),
}
"""Two lines of use by task; `import load` stands before them."""


@dataclass(frozen=True)
class Runtime:
    """A target's part of the program."""

    folder: Path
    """The target's folder, which holds `loader.template`."""
    packages: str
    """The packages that it imports, in words."""
    imports: tuple[str, ...]
    """Its import statements, one a line, those of the standard library apart."""
    standard: tuple[str, ...] = ()
    quiet: tuple[str, ...] = ()
    """Statements in front of them, which keep a package from reporting to others."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What the template's other words stand for."""


def text(contract: Contract, runtime: Runtime, call_tokens: int) -> str:
    """Returns the program for artifacts of a runtime and of the task in `contract`."""
    own = (runtime.folder / "loader.template").read_text("utf-8").rstrip()
    for word, value in runtime.words.items():
        own = own.replace(f"@{word}@", value)
    made = (_SHARED / "head.template").read_text("utf-8")
    imported = (*_STANDARD, *runtime.standard)
    for word, value in {
        "DOES": _DOES[contract.task],
        "PACKAGES": runtime.packages,
        "USE": "\n".join(("    import load", "", *(f"    {one}" for one in USES[contract.task]))),
        "STANDARD": "\n".join(sorted(imported, key=lambda one: (one.startswith("from"), one))),
        "QUIET": "".join(f"{line}\n" for line in runtime.quiet),
        "IMPORTS": "\n".join(runtime.imports),
        "RUNTIME": f"{own}\n",
        "CALL_TOKENS": str(call_tokens),
        "TASK": (_SHARED / f"{contract.task}.template").read_text("utf-8").rstrip(),
    }.items():
        made = made.replace(f"@{word}@", value)
    return made

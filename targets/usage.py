"""Lines of use in an artifact's README.md: for each language as many as work for its target."""

from __future__ import annotations

import json
from dataclasses import dataclass

from goldfold.exporter.contract import Contract
from goldfold.targets.loading import LOADER, USES


@dataclass(frozen=True)
class Use:
    """One way to use an artifact."""

    title: str
    language: str
    """The language of the code, as Markdown names it."""
    code: str
    remark: str = ""
    """A sentence below the code."""


GOLDFOLD = {
    "embedding": (
        'encoder = goldfold.load("{folder}")',
        'vectors = encoder.embed(["a text", "another"])',
        'query = encoder.embed_query("a question")',
        'documents = encoder.embed_document(["a document", "another"])',
    ),
    "scores": (
        'scorer = goldfold.load("{folder}")',
        'scores = scorer.predict([("a question", "a document")])',
        'best = scorer.rank("a question", ["a document", "another"])',
    ),
    "sparse": (
        'encoder = goldfold.load("{folder}")',
        '((indices, values),) = encoder.embed(["a text"])',
        'rows = encoder.encode_query(["a question"])',
    ),
    "multi_vector": (
        'encoder = goldfold.load("{folder}")',
        'query = encoder.encode_query(["a question"])',
        'best = encoder.rank("a question", ["a document", "another"])',
    ),
}
"""Lines of goldfold's own loader by task; `import goldfold` stands before them."""


def goldfold(contract: Contract, extra: str | None, folder: str) -> Use:
    """Returns the lines of `goldfold.load`."""
    lines = [one.format(folder=folder) for one in GOLDFOLD[contract.task]]
    if contract.route and contract.task in ("sparse", "embedding"):
        lines = [*lines[:1], f'rows = encoder.encode_{contract.route}(["a text"])']
    code = "\n".join((f"# pip install 'goldfold[{extra or ''}]'", "import goldfold", "", *lines))
    return Use("Python, with goldfold", "python", code, "Every digest is checked when it opens.")


def own(contract: Contract, packages: str) -> Use:
    """Returns the lines of the artifact's own load.py."""
    code = "\n".join(("# in this folder, or with it on sys.path", "import load", ""))
    code += "\n" + "\n".join(USES[contract.task])
    return Use(
        f"Python, with `{LOADER}`",
        "python",
        code,
        f"It needs {packages}, tokenizers and numpy, and gives what goldfold gives.",
    )


def plain(contract: Contract, opened: tuple[str, ...], called: str) -> Use | None:
    """Returns lines for the runtime alone; None where they would not be five. `opened` are those
    that open the model, and `called` the expression of its first output of `feeds`."""
    if contract.frame is not None or contract.task == "multi_vector" or contract.unpooled:
        return None
    if contract.task == "scores":
        texts = '[("a question", "a document")]'
    else:
        texts = json.dumps([contract.prompt_of("query") + "a question"], ensure_ascii=False)
    names = ", ".join(f'"{name}"' for name in contract.inputs)
    code = (
        *opened,
        'tokenizer = Tokenizer.from_file("tokenizer.json")  # it cuts what is too long',
        f"tokenizer.enable_padding(pad_id={contract.pad_id})",
        f"rows = tokenizer.encode_batch({texts})",
        "values = [[r.ids for r in rows], [r.attention_mask for r in rows]]",
        f"feeds = dict(zip(({names}), map(np.array, values)))",
        f"vectors = {called}",
    )
    said = {"scores": "These are logits.", "sparse": "These are dense rows."}
    remark = said.get(contract.task, "Prompts are yours to add.")
    return Use("Python, with the runtime alone", "python", "\n".join(code), remark)

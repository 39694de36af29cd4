"""The reference page shows all passes on one page, or one pass on the terminal.

python -m goldfold.exporter.passes.reference_page > docs/passes.md
"""

from __future__ import annotations

from goldfold.exporter.errors import UsageError
from goldfold.exporter.passes import docstring, pipeline
from goldfold.exporter.passes.base import Pass

_HEAD = """# The passes

Generated from the passes' docstrings by `make pages`; a test fails when this page is stale. The
examples are the tests: each *before* is rewritten, compared with *after*, and both are run on drawn
numbers. They run in this order.

| equality | |
|---|---|
| EXACT | the same bits in f32, where nothing over- or underflows |
| REAL | the same function over the real numbers; tested in f64 |
| BOUND | within the bound that the pass states |
"""


def find(name: str) -> Pass:
    """The pass of this name. Raises UsageError, listing all names."""
    passes = {this.name: this for this in pipeline.every()}
    if name not in passes:
        raise UsageError(f"no pass is called {name!r}; there are {', '.join(passes)}")
    return passes[name]


def page() -> str:
    """docs/passes.md."""
    return "\n".join([_HEAD, *(entry(this) for this in pipeline.every())])


def entry(this: Pass) -> str:
    """One pass as Markdown."""
    read = docstring.read(this)
    kind = f"**{this.equality.name}**" + (", required" if this.required else "")
    parts = [f"## {this.name}\n", f"{kind}. {read.summary}\n"]
    parts += [f"*Holds:* {_line(read.holds)}\n", f"*Needs:* {_line(read.needs)}\n"]
    for example in read.examples:
        title = f" ({example.title})" if example.title else ""
        after = "" if example.after == "none" else f"\nafter\n{example.after}"
        parts.append(f"Example{title}:\n\n```\nbefore\n{example.before}{after}\n```\n")
    if read.refusals:
        parts.append("Refuses, among others, where:\n")
        parts.append("\n".join(f"- {left.title}" for left in read.refusals) + "\n")
    if read.ignored:
        parts.append("Leaves alone, as none of its own, where:\n")
        parts.append("\n".join(f"- {left.title}" for left in read.ignored) + "\n")
    return "\n".join(parts)


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    print(page(), end="")

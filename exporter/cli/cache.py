"""`goldfold cache`: the finished stages in this machine's cache, and how to remove them."""

from __future__ import annotations

import json
import os
import time

import typer
from rich.text import Text

from goldfold.exporter.cli.console import open_console
from goldfold.exporter.cli.flags import AsJson
from goldfold.exporter.errors import UsageError
from goldfold.exporter.system.cache import DEFAULT_GB, FOLDER, SIZE, Cache, open_cache

_HOMELESS = f"no cache: there is no home folder; {FOLDER} may name another"

cache_app = typer.Typer(
    help=(
        "Finished stages of exports: traced programs, and measurements of quantization. "
        f"They are in ~/.cache/goldfold/stages, or in {FOLDER} (empty: no cache), "
        f"and take at most {SIZE} gigabytes ({DEFAULT_GB:g} by default): the least "
        "recently used go first."
    ),
    no_args_is_help=True,
)


@cache_app.command("list")
def list_entries(as_json: AsJson = False) -> None:
    """List the cached stages, the most recently used first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    cache = _cache()
    found = [] if cache is None else cache.entries()[::-1]
    if as_json:
        rows = [
            {"stage": e.stage, "path": str(e.path), "bytes": e.size, "used": e.used} for e in found
        ]
        print(json.dumps(rows, indent=1))
        return
    shown = Table("stage", "MB", "used", "entry", box=SIMPLE_HEAD, pad_edge=False)
    for entry in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        name = entry.path.name.rpartition("-")[2]
        shown.add_row(entry.stage, f"{entry.size / 1e6:,.1f}", used, name[:16])
    open_console().print(shown)


@cache_app.command()
def size(as_json: AsJson = False) -> None:
    """Print the cache's folder, its size and its maximum size."""
    cache = _cache()
    if cache is None:
        said = {"folder": None, "entries": 0, "bytes": 0, "limit": 0}
        print(json.dumps(said, indent=1) if as_json else _HOMELESS)
        return
    found = cache.entries()
    held = sum(entry.size for entry in found)
    if as_json:
        said = {"folder": str(cache.folder), "entries": len(found), "bytes": held}
        print(json.dumps({**said, "limit": cache.limit}, indent=1))
        return
    line = f"{cache.folder}: {len(found)} entries, {held / 1e6:,.1f} MB of {cache.limit / 1e9:g} GB"
    open_console().print(Text(line), soft_wrap=True)


@cache_app.command()
def clear() -> None:
    """Remove all cached stages."""
    cache = _cache()
    line = _HOMELESS if cache is None else f"{cache.folder}: {cache.clear()} entries removed"
    open_console().print(Text(line), soft_wrap=True)


def _cache() -> Cache | None:
    """Returns the user's cache; None where there is no home for it. Raises UsageError if it is
    switched off."""
    if os.environ.get(FOLDER) == "":
        raise UsageError(f"{FOLDER} is empty, so there is no cache; name a folder in it")
    return open_cache()

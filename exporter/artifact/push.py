"""Artifacts on the hub: what is pushed of them, and the card above them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from goldfold.exporter import __version__
from goldfold.exporter.artifact.bundle import MANIFEST, VERDICT, Bundle, open_bundle
from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.hub_push import Upload
from goldfold.exporter.frontend.hub_push import push as send
from goldfold.exporter.system import names
from goldfold.exporter.system.files import place_of
from goldfold.golden.gate import WORDS
from goldfold.golden.tasks import EMBEDDING, QUANTITY

_TASKS = {EMBEDDING: "sentence-similarity", "sparse": "feature-extraction"}


def prepare(
    folders: Sequence[Path],
    repository: str,
    *,
    base: str | None = None,
    revision: str | None = None,
    message: str | None = None,
    private: bool | None = None,
) -> Upload:
    """Returns what a push uploads: every file that a manifest names, the manifest and the verdict,
    each artifact below its folder's name; and the card. `base` is the hub id of the source model.

    Every digest is checked. Raises ArtifactError for an artifact that is damaged or missed its
    gate, UsageError for names that two artifacts share or that the hub would not take.
    """
    opened = [open_bundle(folder) for folder in folders]
    titles = [names.slug(one.path.resolve().name) for one in opened]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise UsageError(f"two artifacts are called {twice}; rename the folder of one")
    files = {
        f"{title}/{key}": place_of(one.path, key)
        for title, one in zip(titles, opened, strict=True)
        for key in (*one.manifest.files, MANIFEST, VERDICT)
    }
    upload = Upload(
        repository=repository,
        revision=revision,
        message=message or f"goldfold {__version__}: {', '.join(titles)}",
        private=private,
        files=files,
        card=card(dict(zip(titles, opened, strict=True)), repository, base),
    )
    upload.check()
    return upload


def card(artifacts: dict[str, Bundle], repository: str, base: str | None) -> str:
    """Returns the hub's card: its metadata, what the artifacts are, how they were measured, and how
    one is used."""
    first = next(iter(artifacts.values()))
    manifest = first.manifest
    licences = {one.manifest.origin.licence for one in artifacts.values()}
    licence = manifest.origin.licence if len(licences) == 1 else None
    head = {
        "license": licence,
        "base_model": base,
        "library_name": "goldfold",
        "pipeline_tag": _TASKS.get(manifest.contract.task),
        "tags": ["goldfold", *sorted({one.manifest.target for one in artifacts.values()})],
    }
    meta = [f"{key}: {json.dumps(value)}" for key, value in head.items() if value]  # JSON is YAML
    title = names.line(manifest.origin.name)
    rows = [_row(name, one) for name, one in artifacts.items()]
    name = next(iter(artifacts))
    lines = [
        "---", *meta, "---", "",
        f"# {title}, exported by goldfold", "",
        f"Artifacts of the model {title}, each compared with golden embeddings of the source in "
        f"fp32 ({QUANTITY[manifest.contract.task]}). Each folder is an artifact, whole: "
        "`manifest.json` has the digest of every file, `verdict.json` the measurements.", "",
        "| folder | target | precision | MB | verdict | worst | mean |",
        "|---|---|---|---:|---|---:|---:|",
        *rows, "",
        "```python",
        "import goldfold",
        "from huggingface_hub import snapshot_download", "",
        f'folder = snapshot_download("{repository}", allow_patterns="{name}/*")',
        f'model = goldfold.load(f"{{folder}}/{name}")',
        "```", "",
        f"`pip install 'goldfold[{manifest.target}]' huggingface-hub` brings what that needs. "
        "The source model's licence and notices lie in each folder.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _row(name: str, one: Bundle) -> str:
    manifest, verdict = one.manifest, one.verdict
    assert verdict is not None  # open_bundle refuses an artifact without one
    judged = verdict.emulated or verdict.measurement
    mean = max(judged.mean, judged.mean_padded)
    cells = (
        f"`{name}`", manifest.target, f"`{manifest.precision}`", f"{one.size / 1e6:.1f}",
        WORDS[verdict.status], f"{judged.larger:.2e}", f"{mean:.2e}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


__all__ = ["card", "prepare", "send"]

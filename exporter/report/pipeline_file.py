"""goldfold.toml: one file says what a pipeline exports, and what it holds its artifacts to.

model = "google/embeddinggemma-300m"     # a hub id, a folder, or "packaged"
revision = "57c266a740f537b4dc058e1b0cda161fd15afa75"
targets = ["openvino", "onnxruntime"]
precisions = ["fp32", "int8"]            # or files of recipes
out = "out"

[options]                                # of the targets, as the flags of `goldfold export`
opset = 21

[limits]                                 # of every artifact …
size_mb = 700

[limits.precision.int8]                  # … of a precision, and of one: limits.artifact.NAME
worst = 0.01

[[layouts]]                              # `goldfold layout`
artifacts = ["openvino-fp32"]
for = "ovms"
out = "served"

Paths are relative to the file. docs/ci.md has every key, docs/schema/pipeline.schema.json the
types.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta, field

from goldfold.exporter import records, registry
from goldfold.exporter.errors import UsageError
from goldfold.exporter.records import Record
from goldfold.exporter.system.files import expanded, read_bounded
from goldfold.exporter.system.names import line

FILE = "goldfold.toml"
LIMIT = 1 << 20
"""The most bytes of a file; one with every key has three thousand."""

Natural = Annotated[int, Meta(ge=0, le=1 << 40)]
Positive = Annotated[int, Meta(ge=1, le=1 << 40)]
Figure = Annotated[float, Meta(ge=0.0, le=1e12)]
Name = Annotated[str, Meta(min_length=1, max_length=4096)]
Names = Annotated[tuple[Name, ...], Meta(min_length=1)]


class Cut(Record, frozen=True, kw_only=True):
    """`[cut]`: the part of the vocabulary that stays (docs/vocabulary.md)."""

    scripts: tuple[Name, ...] = ()
    """Unicode's names of scripts, as `["latin", "greek"]`."""
    vocabulary: Name | None = None
    """A file of texts, one a line; what they do not need is left out."""


class Limits(Record, frozen=True, kw_only=True):
    """What an artifact may show at most, beside the golden gate, which always holds. A limit that
    is left out is none."""

    worst: Figure | None = None
    """The largest 1−cos of any golden text (of a model whose outputs are logits, the largest error
    of one), alone or padded."""
    mean: Figure | None = None
    """The mean over all golden texts, the larger of alone and padded."""
    size_mb: Figure | None = None
    """Millions of bytes of the artifact's files."""
    loss: Figure | None = None
    """The upper bound of the loss in retrieval, as a share: 0.005 is half a percent. Only
    quantized artifacts are judged, with `judge = true`."""


class LimitTable(Limits, frozen=True, kw_only=True):
    """`[limits]`: of every artifact; the more exact one wins, limit by limit."""

    precision: dict[str, Limits] = field(default_factory=dict)
    artifact: dict[str, Limits] = field(default_factory=dict)
    """By the artifact's name, TARGET-PRECISION."""

    def of(self, target: str, precision: str) -> Limits:
        """Returns the limits of one artifact."""
        named = self.artifact.get(f"{target}-{precision}"), self.precision.get(precision), self
        found = {}
        for name in Limits.__struct_fields__:
            given = (getattr(one, name) for one in named if one is not None)
            found[name] = next((limit for limit in given if limit is not None), None)
        return Limits(**found)


class Layout(Record, frozen=True, kw_only=True):
    """`[[layouts]]`: artifacts laid out for a server, as `goldfold layout`."""

    artifacts: Names
    """Names of artifacts, TARGET-PRECISION; the first is the default of a layout of several."""
    server: Annotated[str, Meta(min_length=1)] = field(name="for")
    out: Name


class Release(Record, frozen=True, kw_only=True):
    """`[compat]`: a release whose index the new artifacts' queries must be able to search
    (docs/compat.md)."""

    against: Name
    """A folder of artifacts, of which the one of the same name is compared, or one artifact."""
    texts: Name | None = None
    """A file of texts, one a line; by default docstrings, functions and drawn texts."""
    limit: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    """The most that mixing may lose, as a share; `goldfold compat` has the default."""


class PipelineFile(Record, frozen=True, kw_only=True):
    """The content of goldfold.toml. A key that an option of `goldfold export` has means the
    same."""

    model: Name
    """A hub id, a folder relative to the file, or `packaged`: a small real model from PyPI."""
    revision: Name | None = None
    """The hub's commit, tag or branch; the newest if left out."""
    name: Name | None = None
    route: Name | None = None
    targets: Names = ("openvino",)
    precisions: Names = ("fp32",)
    out: Name = "out"
    max_length: Positive | None = None
    dims: tuple[Positive, ...] = ()
    trust_remote_code: bool = False
    allow_incomplete: bool = False
    judge: bool = False
    """Whether quantized artifacts are judged on retrieval: minutes for each."""
    pairs: Positive | None = None
    unseen: Natural = 0
    require_run: bool = False
    """Whether an artifact that was only proved here counts as failed."""
    texts: tuple[Name, ...] = ()
    """Files of texts that become goldens, each `FILE` or `FILE:query` (docs/your-texts.md)."""
    column: Name | None = None
    private_texts: bool = False
    calibration_texts: tuple[Name, ...] = ()
    cut: Cut = Cut()
    compat: Release | None = None
    options: dict[str, bool | int | str | tuple[int | str, ...]] = field(default_factory=dict)
    limits: LimitTable = LimitTable()
    layouts: tuple[Layout, ...] = ()

    def at(self, folder: Path) -> PipelineFile:
        """Returns the file with its paths joined to the folder that it lies in."""

        def joined(text: str) -> str:
            return str(folder / expanded(text))

        cut = self.cut
        if cut.vocabulary is not None:
            cut = cut.with_(vocabulary=joined(cut.vocabulary))
        local = self.model.startswith((".", "/", "~")) or (folder / self.model).is_dir()
        return self.with_(
            model=joined(self.model) if local else self.model,
            precisions=tuple(
                joined(one) if one.endswith(".toml") else one for one in self.precisions
            ),
            out=joined(self.out),
            texts=tuple(joined(one) for one in self.texts),
            calibration_texts=tuple(joined(one) for one in self.calibration_texts),
            cut=cut,
            compat=None
            if self.compat is None
            else self.compat.with_(
                against=joined(self.compat.against),
                texts=None if self.compat.texts is None else joined(self.compat.texts),
            ),
            layouts=tuple(one.with_(out=joined(one.out)) for one in self.layouts),
        )

    def narrowed(self) -> PipelineFile:
        """Returns the pipeline without limits, layouts and options of what is not asked for."""
        asked = [one.rpartition("/")[2].removesuffix(".toml") for one in self.precisions]
        names = {f"{target}-{precision}" for target in self.targets for precision in asked}
        limits = self.limits.with_(
            precision={k: v for k, v in self.limits.precision.items() if k in asked},
            artifact={k: v for k, v in self.limits.artifact.items() if k in names},
        )
        layouts = tuple(one for one in self.layouts if names.issuperset(one.artifacts))
        fields = {name for one in self.targets if one in registry.names()
                  for name in registry.target(one).Options.__struct_fields__}  # fmt: skip
        options = {k: v for k, v in self.options.items() if k in fields}
        return self.with_(limits=limits, layouts=layouts, options=options)


def load(file: Path, given: Mapping[str, Any] | None = None) -> PipelineFile:
    """Returns the content of a goldfold.toml, its paths joined to the file's folder; `given` is in
    the place of what the file says, and its paths are relative to the working folder. Raises
    UsageError: the line or the table, and what is wrong with it."""
    try:
        raw = read_bounded(file, LIMIT)
    except OSError as error:
        hint = "; `goldfold ci --init` writes one" if isinstance(error, FileNotFoundError) else ""
        raise UsageError(f"cannot read {file}: {error.strerror}{hint}") from None
    try:
        text = raw.removeprefix(b"\xef\xbb\xbf").decode()  # a BOM, which Windows' editors write
        found = tomllib.loads(text)
    except UnicodeDecodeError as error:
        number = raw[: error.start].count(b"\n") + 1
        raise UsageError(f"{file}: line {number} is not UTF-8; save it as such") from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        said = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{file} is no TOML: {line(said)}") from None
    for place, unknown, near in _unknown(found, PipelineFile, ()):
        raise UsageError(f"{file}, {_where(text, place, unknown)}: {near}")
    try:
        read = records.read(PipelineFile, {**found, **(given or {})})
    except ValueError as error:
        place, colon, said = str(error).partition(": ")
        known = re.fullmatch(r"[\w.\[\]-]+", place) if colon else None
        if known is None:
            raise UsageError(f"{file}: {line(str(error))}") from None
        *table, key = re.sub(r"\[[^\]]*\]", "", place).split(".")
        where = _where(text, tuple(table), key)
        raise UsageError(f"{file}, {where}: {place}: {line(said)}") from None
    _check(file, read)
    return read.at(file.parent)


def _check(file: Path, read: PipelineFile) -> None:
    """Refuse limits that nothing could be held to. Raises UsageError."""
    tables = {"limits": read.limits, **{f"limits.precision.{k}": v for k, v in
              read.limits.precision.items()}, **{f"limits.artifact.{k}": v for k, v in
              read.limits.artifact.items()}}  # fmt: skip
    for table, limits in tables.items():
        if limits.loss is not None and not read.judge:
            raise UsageError(
                f"{file}: {table}.loss needs a judgement of retrieval; set judge = true as well"
            )


def _unknown(
    found: Mapping[str, Any], kind: Any, place: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yields the unknown keys: the table, the key, and a sentence with the nearest known name."""
    hints = get_type_hints(kind)
    fields = {one.encode_name: hints[one.name] for one in msgspec.structs.fields(kind)}
    for key, value in found.items():
        if key not in fields:
            yield place, key, f"there is no key {line(key[:80])!r} here; {nearest(key, fields)}"
            continue
        for struct, inside, where in _structs(fields[key], value, (*place, key)):
            yield from _unknown(inside, struct, where)


def _structs(
    hint: Any, value: Any, place: tuple[str, ...]
) -> Iterator[tuple[Any, Mapping[str, Any], tuple[str, ...]]]:
    """Yields the records inside a value: itself, those of a list, those of a table of tables."""
    if isinstance(hint, type) and issubclass(hint, Record) and isinstance(value, Mapping):
        yield hint, value, place
    for one in get_args(hint):
        if isinstance(value, list):
            for item in value:
                yield from _structs(one, item, place)
        elif isinstance(value, Mapping) and one is not str:
            for key, item in value.items():
                yield from _structs(one, item, (*place, key))


def nearest(key: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """Returns what was meant, in words: the nearest name, or all of them."""
    near = difflib.get_close_matches(key.lower().replace("-", "_"), list(known), 1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def _where(text: str, table: Sequence[str], key: str) -> str:
    """Returns where a key stands: `line 7`, or its table where no line has it in plain form."""
    now: list[str] = []
    for number, said in enumerate(text.splitlines(), 1):
        head = re.fullmatch(r"\s*\[{1,2}([^\[\]]+)\]{1,2}\s*(#.*)?", said)
        if head is not None:
            now = [part.strip().strip("\"'") for part in head[1].split(".")]
            if now == [*table, key]:
                return f"line {number}"
            continue
        named = re.match(r"\s*([^=#]+?)\s*=", said)
        if named is not None:
            parts = [part.strip().strip("\"'") for part in named[1].split(".")]
            if [*now, *parts][: len(table) + 1] == [*table, key]:
                return f"line {number}"
    return f"table [{'.'.join(table)}]" if table else "top of the file"

"""The manifest and the verdict of an artifact: the manifest is the artifact's identity, and the
verdict names the one manifest that it belongs to.

The reader trusts neither file: it applies limits, checks every field, and takes no name in them for
a path before it has checked it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from goldfold.exporter import records, registry
from goldfold.exporter.artifact.left_files import is_byte_code as is_byte_code
from goldfold.exporter.artifact.left_files import is_left as is_left
from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.options import Plain as Value
from goldfold.exporter.proofs import (
    Calibration,
    Canaries,
    Constants,
    KindBounds,
    Outside,
    Sha256,
    UnseenFigures,
    YourTexts,
)
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.records import (
    Figures,
    KindRange,
    LayerLook,
    Location,
    Look,
    Losses,
    Measured,
    PassReport,
    Record,
    Speed,
    Timing,
)
from goldfold.exporter.system import names
from goldfold.exporter.system.files import read_record
from goldfold.golden.gate import Status
from goldfold.golden.reasons import Reason

MANIFEST = "manifest.json"
VERDICT, README = "verdict.json", "README.md"
GOLDEN, OUTSIDE = "golden", "golden/outside"  # the latter: texts that a cut does not keep
PRIVATE = "golden/private"
"""Digests and embeddings of a user's private texts (golden/withheld.py)."""
DERIVATIONS = "derivations.txt"
FAILED = ".failed"
REPORT = ("report.html", "report.json", "junit.xml")
"""Files of the report on the artifacts beside them (exporter/report/)."""
PIPELINE = ("verdict.md", "pipeline.json")  # `goldfold ci` leaves these as well
_KIND = "goldfold.artifact/"
FORMAT = "goldfold.artifact/7"
_VERDICTS = "goldfold.verdict/"
VERDICT_FORMAT = "goldfold.verdict/4"

Plain = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}(?![\s\S])")]
"""A string that becomes part of a folder's name."""


class Origin(Record, frozen=True, kw_only=True):
    """The origin of the model."""

    name: str
    fingerprint: Sha256
    """sha256 over the files that define the model; the goldens carry the same digest."""
    digests: dict[str, Sha256]
    """sha256 by path of every source file."""
    licence: str | None = None


class FileEntry(Record, frozen=True, kw_only=True):
    sha256: Sha256
    size: Annotated[int, Meta(ge=0)]


class Manifest(Record, frozen=True, kw_only=True):
    """Everything that the same inputs determine. A manifest holds no times and no paths of a
    machine."""

    format: Literal["goldfold.artifact/7"] = FORMAT
    goldfold: str
    target: Plain
    precision: Plain
    recipe: Recipe | None = None
    """The recipe of the integers; None where the precision is a floating one."""
    contract: Contract
    origin: Origin
    versions: dict[str, str]
    passes: tuple[PassReport, ...]
    census: dict[str, int]
    """Nodes of the program by op, after the common passes and before the target's own."""
    attention: dict[str, int]
    """Attention nodes of that program by their window, for example {"window 257": 20, "all": 4}."""
    notes: tuple[str, ...] = ()
    options: dict[str, Value] = field(default_factory=dict)
    """Options of the target's build, defaults filled in."""
    built: tuple[str, ...] = ()
    """The target's notes on the build, one sentence each."""
    structure: str = ""
    """The sha256 of the structure of the graph in the target's own file: ops, attributes, sizes and
    wiring, without the numbers of constants (golden/proof/)."""
    bounds: tuple[KindBounds, ...] = ()
    """The values in fp16, by kind: bounded for every text, or by calibration alone. Where the
    runtime rounds by a hint, of the program that it would round as it is asked to."""
    texts: YourTexts | None = None
    """The user's own texts among the goldens. Not written where there are none."""
    calibration: Calibration | None = None
    """The user's own calibration texts, where the numbers depend on them. Not written where the
    built-in ones were used."""
    files: dict[str, FileEntry]

    @property
    def gate(self) -> str:
        """The precision whose gate applies."""
        return self.precision if self.recipe is None else self.recipe.gate

    @property
    def floating(self) -> str:
        """The precision of the computation where there are no integers."""
        around = self.recipe and self.recipe.around
        return registry.floating(self.target, self.precision, around)

    @property
    def needs(self) -> frozenset[str]:
        """The kinds of integers in the artifact (Recipe.needs)."""
        return frozenset() if self.recipe is None else self.recipe.needs

    @property
    def digest(self) -> str:
        """The sha256 of the manifest's file, in hex: a verdict names the manifest by it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Returns canonical JSON whose last key, `sha256`, is the digest of everything before
        it."""
        record = self.plain()
        for report in record["passes"]:
            del report["seconds"]
        for name in ("texts", "calibration"):
            if record[name] is None:
                del record[name]
        body = json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1)
        digest = hashlib.sha256(body.encode()).hexdigest()
        return (body[:-2] + f',\n "sha256": "{digest}"\n}}\n').encode()


class VerdictRecord(Record, frozen=True, kw_only=True):
    """The measurements of the last verification of an artifact."""

    format: Literal["goldfold.verdict/4"] = VERDICT_FORMAT
    manifest: str = ""
    """The sha256 of the manifest.json that this verdict belongs to: `Manifest.digest`, set on
    writing."""
    status: Status
    """One of "passed", this very file ran on the machine of the verification, in its precision;
    "proved", what stands for it ran and held the gate; "failed"."""
    stand_in: str = ""
    """What ran in place of the file in its precision, in words; "" where nothing stood in."""
    not_run: str = ""
    """Why the file did not run on its device in its precision; "" where it did."""
    reasons: tuple[Reason, ...] = ()
    precision: str
    measurement: Measured
    emulated: Measured | None = None
    """The figures of an evaluation that rounds every value to its type, where the verifying machine
    does not compute in this precision."""
    beside: dict[str, Figures] = field(default_factory=dict)
    """Figures of other runtimes on the same file, by runtime; not judged."""
    heads: dict[str, Figures] = field(default_factory=dict)
    """Figures of the further heads, by output, on the short texts."""
    emulated_heads: dict[str, Figures] = field(default_factory=dict)
    """The heads' figures with every value rounded to its type."""
    drift: tuple[Look, ...] = ()
    """The drift after every pass, where the export was asked for it."""
    layers: tuple[LayerLook, ...] = ()
    """The drift after every layer, against the source model, on request
    (exporter/diagnose/layer_drift.py)."""
    ranges: tuple[KindRange, ...] = ()
    """The ranges of values, where half precision required them."""
    constants: Constants | None = None
    """The proof of the constants; null if an earlier goldfold verified it."""
    losses: Losses | None = None
    """The losses in retrieval of a quantized artifact; null for any other."""
    unseen: UnseenFigures | None = None
    """The figures over unseen texts; null where they were never measured."""
    outside: Outside | None = None
    """The figures of goldens outside of a cut vocabulary, which no gate judges."""
    canaries: Canaries | None = None
    """Vectors of a quantized artifact on the machine of the verdict; null for any other."""
    speed: Speed | None = None
    """The last latency measurement of `goldfold report --speed`."""
    location: Location | None = None
    """The location of the fault in an artifact that missed its gate, found by its export
    (exporter/diagnose/locating.py)."""
    timings: tuple[Timing, ...]
    passes_seconds: dict[str, float] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for a status that the other fields contradict."""
        if self.status != "failed" and self.reasons:
            raise ValueError(f"status {self.status} stands beside reasons of a failure")
        if self.status != "failed" and (self.status == "proved") != bool(self.stand_in):
            raise ValueError(f"status {self.status} and stand_in {self.stand_in!r} do not agree")
        if bool(self.stand_in) != bool(self.not_run):
            raise ValueError("stand_in and not_run stand together, or neither does")

    @property
    def passed(self) -> bool:
        """Whether the gate holds, for the file itself or for its stand-in."""
        return self.status != "failed"


# --- reading


def read_manifest(path: Path) -> Manifest:
    """Read manifest.json and check its own digest and every name in it. Raises ArtifactError."""
    try:
        raw = read_record(path / MANIFEST)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ArtifactError(f"{path} is not an artifact: {MANIFEST}: {reason}") from None
    try:
        record = records.parse(raw)
        if str(record["format"]).startswith(_KIND) and record["format"] != FORMAT:
            raise ArtifactError(
                f"{path} has the format {str(record['format'])[:80]}, not {FORMAT}; export it again"
            )
        record.pop("sha256")
        for report in record["passes"]:
            report["seconds"] = 0.0
        manifest = records.read(Manifest, record)
        canonical = manifest.to_bytes()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = _first_error(error)
        raise ArtifactError(f"{path} is damaged: {MANIFEST} is malformed: {reason}") from None
    if canonical != raw:
        raise ArtifactError(f"{path} is damaged: {MANIFEST} has been changed; export it again")
    _check_keys(path, manifest)
    return manifest


def _check_keys(path: Path, manifest: Manifest) -> None:
    """Check that every file lies in the folder, under a name that any system takes, and that no two
    names are one."""
    seen: dict[str, str] = {}
    for key in manifest.files:
        pure = Path(key)
        if pure.is_absolute() or ".." in pure.parts:
            raise ArtifactError(f"{path} is damaged: {MANIFEST} names {key}, outside the folder")
        why = names.key_fault(key)
        if why is None and (is_own(key) or is_byte_code(key)):
            why = "it cannot be counted among them"
        if why is not None:
            short = key if len(key) < 80 else f"{key[:80]}…"
            raise ArtifactError(
                f"{path} is damaged: {MANIFEST} names {short!r}, no file of an artifact: {why}"
            )
        other = seen.setdefault(names.folded(key), key)
        if other != key:
            raise ArtifactError(
                f"{path} is damaged: {MANIFEST} names {other} and {key}, one file to some systems"
            )


def read_verdict(path: Path, manifest: Manifest) -> VerdictRecord | None:
    """Returns the verdict on the artifact of this manifest; None if there is none. Raises
    ArtifactError for a verdict that is damaged, of an earlier goldfold, or of another artifact."""
    file = path / VERDICT
    again = f"remove it and run `goldfold verify {path}`"
    if not os.path.lexists(file):
        return None
    try:
        raw = read_record(file)
        found = records.parse(raw)
        keys = set(found) if isinstance(found, dict) else set()
        whole = "measurement" in keys and keys & {"status", "passed"}  # "passed" until verdict/3
        said = str(found.get("format", _VERDICTS)) if whole else ""
        if said != VERDICT_FORMAT and said.startswith(_VERDICTS):
            raise ArtifactError(f"{path}: {VERDICT} is of another version of goldfold; {again}")
        verdict = records.read(VerdictRecord, found)
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is damaged: {VERDICT} is malformed: {_first_error(error)}; {again}"
        ) from None
    if verdict.manifest != manifest.digest:
        raise ArtifactError(
            f"{path}: {VERDICT} is another artifact's: it is on the manifest of the sha256 "
            f"{verdict.manifest[:16] or 'none'}…, and here is {manifest.digest[:16]}…; {again}"
        )
    return verdict


def _first_error(error: Exception) -> str:
    if type(error) is ValueError:
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"{type(error).__name__} {error}".splitlines()[0]


def is_artifact(path: Path) -> bool:
    """Returns whether `path` looks like a folder that `export` wrote, whole or damaged."""
    try:
        return _KIND.encode() in read_record(path / MANIFEST)
    except OSError:
        return False


# --- what lies in a folder besides


FRESH = re.compile(
    rf"{re.escape(VERDICT)}(\.[0-9a-f]{{16}})?\.new|{re.escape(README)}\.[0-9a-f]{{16}}\.new"
)


def is_own(key: str) -> bool:
    """Returns whether a file is the manifest, the verdict, the README that shows it, or an
    unfinished one of these."""
    return key in (MANIFEST, VERDICT, README) or FRESH.fullmatch(key) is not None

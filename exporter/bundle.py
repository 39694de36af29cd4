"""An artifact folder: written whole or not at all, and opened with every digest checked.

manifest.json    what it is and the sha256 of every file; ends the bundle's identity
verdict.json     what was measured, and when it took how long; outside the digests
tokenizer.json   and what belongs to it
golden/          the golden embeddings it is verified against
LICENSE …        the source model's licence and notice files
…                the target's own files
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from exporter import registry
from exporter.errors import ArtifactError, OutputError
from exporter.figures import KindRange, LayerLook, Losses, Speed
from exporter.files import UNBUILT, is_alive, is_full, read_record
from exporter.location import Location
from exporter.options import NOTHING_ASKED, BuildOptions
from exporter.pipeline import PassReport
from exporter.probing import Look
from exporter.program import Contract
from exporter.quantize.recipe import Recipe
from exporter.stages import Timing

MANIFEST = "manifest.json"
VERDICT = "verdict.json"
GOLDEN = "golden"
FAILED = ".failed"
REPORT = ("report.html", "report.json", "junit.xml")
"""What lies beside artifacts and says what they come to (exporter/reporting/)."""
_KIND = "goldfold.artifact/"
FORMAT = "goldfold.artifact/3"
_SCRATCH = ".goldfold-"
_RETIRED = "retired-"
_OWNER = re.compile(r"\.goldfold-([1-9][0-9]{0,8})-")


class Origin(BaseModel):
    """Where the model came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    """sha256 over the files that define the model; the goldens carry the same."""
    digests: dict[str, str]
    """sha256 by path of every source file."""
    licence: str | None = None


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int


class Manifest(BaseModel):
    """Everything that the same inputs determine. Holds no times and no paths of a machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["goldfold.artifact/3"] = FORMAT
    goldfold: str
    target: str
    precision: str
    recipe: Recipe | None = None
    """What is integers in it; none where the precision is a floating one."""
    contract: Contract
    origin: Origin
    versions: dict[str, str]
    passes: tuple[PassReport, ...]
    census: dict[str, int]
    """Nodes of the program by op, after the common laws and before the target's own."""
    attention: dict[str, int]
    """Attention nodes of that program by whom they see, for example {"window 257": 20, "all":
    4}."""
    notes: tuple[str, ...] = ()
    options: BuildOptions = NOTHING_ASKED
    """What the target was built with, its defaults filled in."""
    built: tuple[str, ...] = ()
    """What the target says of the build, one sentence each."""
    files: dict[str, FileEntry]

    @property
    def gate(self) -> str:
        """The precision whose gate it is held to."""
        return self.precision if self.recipe is None else self.recipe.gate

    @property
    def floating(self) -> str:
        """What is computed in where there are no integers."""
        around = self.recipe and self.recipe.around
        return registry.floating(self.target, self.precision, around)

    @property
    def needs(self) -> frozenset[str]:
        """What integers it is made of (Recipe.needs)."""
        return frozenset() if self.recipe is None else self.recipe.needs

    def to_bytes(self) -> bytes:
        """Canonical JSON whose last key, `sha256`, is the digest of everything before it."""
        record = self.model_dump(mode="json", exclude={"passes": {"__all__": {"seconds"}}})
        if self.options.batch is None:  # manifests from before the option keep their digest
            del record["options"]["batch"]
        body = json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1)
        digest = hashlib.sha256(body.encode()).hexdigest()
        return (body[:-2] + f',\n "sha256": "{digest}"\n}}\n').encode()


class VerdictRecord(BaseModel):
    """What was measured when the artifact was last verified."""

    model_config = ConfigDict(extra="forbid")

    passed: bool
    reasons: tuple[str, ...]
    precision: str
    measurement: dict[str, Any]
    emulated: dict[str, Any] | None = None
    """The same figures with every value rounded to its type, where the machine that verified does
    not
    compute in this precision."""
    beside: dict[str, dict[str, Any]] = {}
    """What other runtimes make of the same file, by name; not judged."""
    heads: dict[str, dict[str, Any]] = {}
    """The further heads, by output, on the short texts; "… emulated" with every value rounded."""
    drift: tuple[Look, ...] = ()
    """The drift after every pass, where the export was asked for it."""
    layers: tuple[LayerLook, ...] = ()
    """Likewise after every layer, against the source model (exporter/drifting.py)."""
    ranges: tuple[KindRange, ...] = ()
    """How large values get, where half precision asked for that."""
    losses: Losses | None = None
    """What users feel of its integers; null where it has none."""
    speed: Speed | None = None
    """What `goldfold report --speed` measured last."""
    location: Location | None = None
    """Where one that missed its gate goes wrong, as its export found it (exporter/locating.py)."""
    timings: tuple[Timing, ...]
    passes_seconds: dict[str, float] = {}
    machine: dict[str, str] = {}


@dataclass(frozen=True)
class Bundle:
    """An opened artifact folder."""

    path: Path
    manifest: Manifest
    verdict: VerdictRecord | None

    @property
    def name(self) -> str:
        return f"{self.manifest.target}-{self.manifest.precision}"

    @property
    def size(self) -> int:
        """Bytes of all files the manifest names."""
        return sum(entry.size for entry in self.manifest.files.values())


def seal(folder: Path, manifest: dict[str, Any]) -> Manifest:
    """Digest every file of `folder` and write its manifest. `manifest` gives all fields but
    `files`."""
    files = {
        key: FileEntry(sha256=digest(folder / key), size=(folder / key).stat().st_size)
        for key in sorted(files_of(folder))
    }
    sealed = Manifest(files=files, **manifest)
    (folder / MANIFEST).write_bytes(sealed.to_bytes())
    return sealed


def write_verdict(folder: Path, record: VerdictRecord) -> None:
    """Write or replace verdict.json, whole or not at all."""
    fresh = folder / f"{VERDICT}.new"
    try:
        fresh.unlink(missing_ok=True)  # a link would be written through
        fresh.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        fresh.replace(folder / VERDICT)
    except OSError as error:
        raise OutputError(f"cannot write {folder / VERDICT}: {error.strerror}") from None


def open_bundle(path: Path, *, check_files: bool = True, unverified: bool = False) -> Bundle:
    """Open an artifact folder and check it against its manifest.

    Raises ArtifactError naming the file that is missing, changed or too many. One that missed its
    gate, or was never measured, is refused unless `unverified`. `check_files=False` looks at sizes
    only.
    """
    if not path.is_dir():
        raise ArtifactError(f"{path} is not an artifact folder: there is no such folder")
    manifest = read_manifest(path)
    found, named = set(files_of(path)), set(manifest.files)
    if missing := sorted(key for key in named if not (path / key).is_file()):
        raise ArtifactError(f"{path} is damaged: {missing[0]} is missing; export it again")
    if extra := sorted(found - named):
        raise ArtifactError(f"{path} holds {extra[0]}, which its manifest does not name; remove it")
    for key, entry in manifest.files.items():
        if (path / key).stat().st_size != entry.size:
            raise ArtifactError(f"{path} is damaged: {key} has the wrong size; export it again")
        if check_files and digest(path / key) != entry.sha256:
            raise ArtifactError(f"{path} is damaged: {key} has been changed; export it again")
    verdict = _read_verdict(path)
    if not unverified and (verdict is None or path.name.endswith(FAILED) or not verdict.passed):
        why = "was never verified" if verdict is None else "missed its golden gate"
        raise ArtifactError(f"{path} {why}; `goldfold verify {path}` says more")
    return Bundle(path, manifest, verdict)


def read_manifest(path: Path) -> Manifest:
    """Read manifest.json and check its own digest. Raises ArtifactError."""
    try:
        raw = read_record(path / MANIFEST)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ArtifactError(f"{path} is not an artifact: {MANIFEST}: {reason}") from None
    try:
        record = json.loads(raw)
        if str(record["format"]).startswith(_KIND) and record["format"] != FORMAT:
            raise ArtifactError(
                f"{path} has the format {record['format']}, not {FORMAT}; export it again"
            )
        record.pop("sha256")
        for report in record["passes"]:
            report["seconds"] = 0.0
        manifest = Manifest.model_validate(record)
        canonical = manifest.to_bytes()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = _first_error(error)
        raise ArtifactError(f"{path} is damaged: {MANIFEST} is malformed: {reason}") from None
    if canonical != raw:
        raise ArtifactError(f"{path} is damaged: {MANIFEST} has been changed; export it again")
    for key in manifest.files:
        pure = Path(key)
        if pure.is_absolute() or ".." in pure.parts:
            raise ArtifactError(f"{path} is damaged: {MANIFEST} names {key}, outside the folder")
        if min(key, default="") < " " or any(len(part.encode()) > 255 for part in pure.parts):
            raise ArtifactError(f"{path} is damaged: {MANIFEST} names {key[:80]!r}, no file's name")
    return manifest


def _first_error(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__} {error}".splitlines()[0]


def _read_verdict(path: Path) -> VerdictRecord | None:
    file = path / VERDICT
    if not file.exists():
        return None
    try:
        return VerdictRecord.model_validate_json(read_record(file))
    except (ValidationError, OSError) as error:
        raise ArtifactError(
            f"{path} is damaged: {VERDICT} is malformed: {_first_error(error)}; "
            f"remove it and run `goldfold verify {path}`"
        ) from None


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> Iterator[str]:
    """Paths of all files, posix, relative; but for the manifest, the verdict, and the bytecode that
    Python leaves when an artifact's own loader is imported."""
    for path in folder.rglob("*"):
        if path.suffix == ".pyc" and path.parent.name == "__pycache__":
            continue
        if path.is_file() or path.is_symlink():
            key = path.relative_to(folder).as_posix()
            if key not in (MANIFEST, VERDICT, f"{VERDICT}.new"):
                yield key


def is_artifact(path: Path) -> bool:
    """Whether `path` looks like something `export` wrote, whole or damaged."""
    try:
        return _KIND.encode() in read_record(path / MANIFEST)
    except OSError:
        return False


def check_output(out: Path, names: list[str], force: bool) -> None:
    """Refuse, before any work, an output folder that cannot be written or holds something else.

    Raises OutputError. Nothing is deleted here, and nothing but artifacts ever is.
    """
    check_writable(out, "--out")
    for name in names:
        for path in (out / name, out / f"{name}{FAILED}"):
            if path.exists() and not is_artifact(path):
                raise OutputError(f"{path} is in the way and no artifact of goldfold; move it away")
    if force:
        return
    ours = (_SCRATCH, *(f".{name}." for name in REPORT))
    others = [p.name for p in out.iterdir() if not p.name.startswith(ours)]
    others = [name for name in others if name not in REPORT and not name.endswith(UNBUILT)]
    if others and not any(is_artifact(out / name) for name in others):
        raise OutputError(
            f"{out} holds something else ({sorted(others)[0]}); "
            "choose an empty folder, or give --force"
        )


def check_writable(folder: Path, option: str) -> None:
    """Make `folder` and try to write in it. Raises OutputError naming the option it came from."""
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; give a folder with {option}")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror}; choose another {option}"
        ) from None


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A hidden working folder in `out`, gone afterwards whatever happens. Clears dead ones
    first.

    Raises OutputError for whatever goes wrong in it while the disk is full: each library that
    writes there has words of its own for that, and some have none.
    """
    for stale in out.glob(f"{_SCRATCH}*"):
        owner = _OWNER.match(stale.name)
        if owner and not is_alive(int(owner[1])):
            _put_back(stale, out)
            shutil.rmtree(stale, ignore_errors=True)
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=out))
        yield folder
    except Exception as error:
        if is_full(out, error):
            raise OutputError(
                f"cannot write to {out}: No space left on device; make some, or choose another"
            ) from error
        raise
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _put_back(stale: Path, out: Path) -> None:
    """Put an artifact back that `publish` had taken from its place when its process was killed."""
    for retired in stale.glob(f"{_RETIRED}*/*"):
        if not retired.name.endswith(FAILED) and not (out / retired.name).exists():
            with suppress(OSError):
                retired.rename(out / retired.name)


def publish(built: Path, out: Path, name: str, passed: bool) -> Path:
    """Move a finished artifact to its place, replacing an earlier one of the same name.

    A passed one goes to `out/name` and an earlier `name.failed` goes away; a failed one goes to
    `out/name.failed`, and an earlier good one is left where it is.
    """
    place = out / (name if passed else f"{name}{FAILED}")
    retired = Path(tempfile.mkdtemp(prefix=_RETIRED, dir=built.parent))
    if place.is_symlink() or place.exists():
        place.rename(retired / place.name)
    try:
        built.rename(place)
    except BaseException as error:
        # Ctrl-C too: the earlier artifact would be gone with the scratch folder.
        if (retired / place.name).exists() and not place.exists():
            (retired / place.name).rename(place)
        if isinstance(error, OSError):
            raise OutputError(f"cannot write {place}: {error.strerror}") from None
        raise
    stale = out / f"{name}{FAILED}"
    if passed and is_artifact(stale):
        stale.rename(retired / stale.name)
    return place

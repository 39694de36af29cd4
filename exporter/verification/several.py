"""The verification of several artifacts in one run: a fault of one does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from goldfold.exporter.artifact import sign
from goldfold.exporter.artifact.manifest import is_artifact, read_manifest
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.errors import ArtifactError, GoldfoldError, OutputError, UsageError
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.verification import unseen, verifying, yours
from goldfold.exporter.verification.judging import (
    Judges,
    Log,
    check_alone,
    check_pairs,
    convene,
    fp32_of,
)
from goldfold.exporter.verification.sourced import SourceModel
from goldfold.exporter.verification.yours import Files
from goldfold.golden.errors import GoldenError
from goldfold.golden.judging.pairs import LEAST


@dataclass(frozen=True)
class Unverified:
    """An artifact that could not be verified."""

    path: Path
    error: GoldfoldError | GoldenError


@dataclass(frozen=True)
class Judging:
    """The options of judging: whether, and how, quantized artifacts are measured against their
    limit on retrieval; and the source."""

    wanted: bool = False
    pairs: int = LEAST
    model: str | None = None
    """The source model: every artifact is compared with it, and judging needs it until its fp32
    embeddings are in the cache."""
    trust_remote_code: bool = False
    unseen: int = 0
    """Number of unseen texts on which every artifact is compared with `model`."""
    texts: Files = ()
    """Files of private texts of the artifacts (yours.py)."""
    column: str | None = None

    def check(self) -> None:
        """Raise UsageError for an option that has no meaning where nothing is judged, and for
        unseen texts without a source."""
        check_alone(self.wanted, self.pairs)
        unseen.check(self.unseen)
        if self.unseen and self.model is None:
            raise UsageError("--unseen compares with the source in fp32; name it with --model")

    def judges(self, paths: Sequence[Path], listener: Listener | None, log: Log) -> Judges | bool:
        """Returns the judges of all these artifacts, or False. Raises UsageError if there is
        nothing to judge."""
        if not self.wanted:
            return False
        _check_integers(paths, log)
        check_pairs(self.pairs)
        stages = Stages(listener)
        fp32 = fp32_of(self.model, stages, self.trust_remote_code)
        return convene(stages, fp32, count=self.pairs, log=log)


def artifacts_of(folders: Sequence[Path]) -> list[Path]:
    """Returns each folder, or the artifacts in it if it holds some."""
    paths: list[Path] = []
    for folder in folders:
        inside = sorted(p for p in folder.glob("*") if is_artifact(p)) if folder.is_dir() else []
        paths += inside if inside and not is_artifact(folder) else [folder]
    return paths


def check_signature(
    folders: Sequence[Path], signature: Path | None, public_key: Path | None
) -> str | None:
    """Check the signature of the one artifact of `folders`.

    Returns the digest of the signed manifest; None where neither a signature nor a key is given.
    Raises UsageError where one of the two is missing or there are several artifacts, ArtifactError
    where the signature is not the key's.
    """
    if signature is None and public_key is None:
        return None
    paths = artifacts_of(folders)
    if signature is None or public_key is None:
        raise UsageError("--signature and --public-key go together")
    if len(paths) != 1:
        raise UsageError(f"--signature is of one artifact, and {len(paths)} are given")
    return sign.check_all(paths[0], signature, public_key)


def verify_all(
    folders: Sequence[Path],
    judging: Judging,
    signed: str | None = None,
    *,
    threads: int | None = None,
    listener: Listener | None = None,
    log: Log = lambda text: None,
) -> list[Result | Unverified]:
    """Verify the artifacts of `folders`, as goldfold.verify does one.

    `signed` is the return value of `check_signature` for the one artifact. Raises the errors of a
    single verification, and OutputError, for a full disk is full for all artifacts.
    """
    paths = artifacts_of(folders)
    own = yours.read(judging.texts, judging.column)
    judges = judging.judges(paths, listener, log)
    source = None
    if judging.model is not None:
        source = SourceModel(judging.model, judging.trust_remote_code, judging.unseen)

    def one(path: Path) -> Result:
        return verifying.verify(
            path,
            threads=threads,
            judge=judges,
            model=source,
            texts=own,
            listener=listener,
        )

    found = [_attempt(one, path, alone=len(paths) == 1) for path in paths]
    first = found[0] if signed is not None else None
    if isinstance(first, Result) and first.bundle.manifest.digest != signed:
        raise ArtifactError(f"{first.path} was replaced after its signature was checked")
    return found


def _attempt(one: Callable[[Path], Result], path: Path, *, alone: bool) -> Result | Unverified:
    try:
        return one(path)
    except OutputError:
        raise
    except (GoldfoldError, GoldenError) as error:
        if alone:
            raise
        return Unverified(path, error)


def _check_integers(paths: Sequence[Path], log: Log) -> None:
    """Log the artifacts that --judge leaves out, since they hold no integers; refuse if all are
    left out."""
    floating = [path for path in paths if read_manifest(path).recipe is None]
    names = ", ".join(map(str, floating))
    if len(floating) == len(paths):
        raise UsageError(
            f"--judge measures quantized artifacts, and {names} is not quantized; "
            "`goldfold judge ARTIFACT` judges any artifact"
        )
    if floating:
        log(f"--judge leaves out what has no integers: {names}")

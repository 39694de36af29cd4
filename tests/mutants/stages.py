"""The two places where an artifact goes wrong: inside its export, and in its finished folder.

writer  the target's `make`, the writer of sidecars, or the target's `finish` leave something wrong,
        or a wrong contract is sealed; the export must end in a miss or an error
model   a finished folder is changed and sealed anew (every digest fits; all else in the manifest,
        and the verdict, stay as they were); `verify` has the model at hand
alone   the same, and `verify` has the folder alone
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.mutants import bases
from tests.mutants.bases import Base
from tests.mutants.change import Change, Subject
from tests.mutants.graph import Inapplicable

STAGES = ("writer", "model", "alone")
Mutate = Callable[[Subject], Change]
AFTER = {"tokenizer": "sidecars", "companions": "finish", "prompts": "seal", "contract": "seal"}
"""After which step of an export a kind of mutation goes in; all others after `make`."""


@dataclass(frozen=True)
class Outcome:
    """What became of one artifact."""

    how: str
    """"missed", "refused" (a GoldfoldError), "passed" or "crashed" (any other error)."""
    said: str
    change: Change | None

    @property
    def killed(self) -> bool:
        return self.how in ("missed", "refused")


def run(stage: str, kind: str, base: Base, mutate: Mutate, scratch: Path) -> Outcome:
    """Make one artifact wrong and see what becomes of it. Raises Inapplicable where there is
    nothing to change."""
    from goldfold.exporter.errors import GoldfoldError

    changes: list[Change] = []
    vain: list[Inapplicable] = []  # an export makes an error of its own of it

    def spoil(subject: Subject) -> Change:
        try:
            changes.append(mutate(subject))
        except Inapplicable as error:
            vain.append(error)
            raise
        return changes[-1]

    try:
        if stage == "writer":
            passed, said = _written(kind, base, spoil, scratch)
        else:
            passed, said = _stored(stage, base, spoil, scratch)
    except GoldfoldError as error:
        how, said = "refused", f"{type(error).__name__}: {error}"
    except Exception as error:
        how, said = "crashed", f"{type(error).__name__}: {error}"
    else:
        how = "passed" if passed else "missed"
    if vain:
        raise vain[0]
    said = " ".join(said.split())[:160]
    return Outcome(how, said, changes[-1] if changes else None)


# --- writer


def _written(kind: str, base: Base, spoil: Mutate, scratch: Path) -> tuple[bool, str]:
    from goldfold import export

    with _spoilt(AFTER.get(kind, "make"), base, spoil), shared(base):
        (result,) = export(
            base.source,
            [base.target],
            [base.asked],
            scratch / "out",
            name=base.model,
            build=base.build,
            locate=False,
        )
    return result.passed, "; ".join(result.verdict.sentences[:2])


@contextmanager
def _spoilt(step: str, base: Base, spoil: Mutate) -> Iterator[None]:
    """Let one step of the export leave something wrong."""
    from goldfold.exporter import registry
    from goldfold.exporter.artifact import bundle, sidecars
    from goldfold.exporter.contract import Contract
    from goldfold.exporter.records import read

    target = registry.target(base.target)
    make, finish, write, seal = target.make, target.finish, sidecars.write, bundle.seal

    def made(program: Any, precision: str, folder: Path, *more: Any) -> Any:
        done = make(program, precision, folder, *more)
        spoil(Subject(base, folder))
        return done

    def finished(folder: Path, *more: Any) -> Any:
        said = finish(folder, *more)
        spoil(Subject(base, folder))
        return said

    def written(source: Any, program: Any, contract: Any, goldens: Any, folder: Path) -> None:
        write(source, program, contract, goldens, folder)
        spoil(Subject(base, folder))

    def sealed(folder: Path, manifest: dict[str, Any]) -> Any:
        subject = Subject(base, folder, manifest["contract"])
        spoil(subject)
        contract = read(Contract, subject.contract.plain())
        return seal(folder, {**manifest, "contract": contract})

    with ExitStack() as stack:
        if step == "make":
            stack.enter_context(mock.patch.object(target, "make", made))
        elif step == "finish":
            stack.enter_context(mock.patch.object(target, "finish", finished))
        elif step == "sidecars":
            stack.enter_context(mock.patch.object(sidecars, "write", written))
        else:
            stack.enter_context(mock.patch.object(bundle, "seal", sealed))
        yield


_EMULATED: dict[str, Any] = {}


@contextmanager
def shared(base: Base) -> Iterator[None]:
    """Take what no mutation touches from the base: its goldens, and the emulator's figures of the
    sound program."""
    from goldfold.exporter.driver import exporting, proving
    from goldfold.exporter.verification.measure import Emulation
    from goldfold.golden import store

    emulated = proving.emulated

    def goldens(source: Any, stages: Any, length: Any = None, *more: Any) -> Any:
        found = store.load(base.goldens)
        return found if length is None else found.within(length)

    def known(program: Any, *more: Any) -> Any:
        if base.name not in _EMULATED:
            found = emulated(program, *more)
            _EMULATED[base.name] = (found.measurement, found.verdict)
        return Emulation(program, *_EMULATED[base.name])

    with ExitStack() as stack:
        if base.goldens.is_dir():
            stack.enter_context(mock.patch.object(exporting, "obtain_goldens", goldens))
        stack.enter_context(mock.patch.object(proving, "emulated", known))
        stack.enter_context(mock.patch.object(exporting.report, "after_export", _nothing))
        yield


def _nothing(*given: Any) -> None:
    """No report is made of a single mutant."""


# --- stored


def _stored(stage: str, base: Base, spoil: Mutate, scratch: Path) -> tuple[bool, str]:
    from goldfold import verify

    folder = scratch / base.folder.name
    shutil.copytree(base.folder, folder)
    reseal(base, folder, spoil)
    given = {"model": str(base.source)} if stage == "model" else {}
    result = verify(folder, **given)
    return result.passed, "; ".join(result.verdict.sentences[:2])


def reseal(base: Base, folder: Path, spoil: Mutate) -> None:
    """Change a folder and make every digest in it fit; its verdict follows the manifest's."""
    from goldfold.exporter.artifact import bundle
    from goldfold.exporter.artifact.manifest import Manifest, read_verdict

    manifest = bundle.read_manifest(folder)
    verdict = read_verdict(folder, manifest)
    subject = Subject(base, folder, manifest.contract)
    spoil(subject)
    names = [name for name in Manifest.__struct_fields__ if name not in ("format", "files")]
    fields = {name: getattr(manifest, name) for name in names}
    bundle.seal(folder, {**fields, "contract": subject.contract})
    if verdict is not None:
        bundle.write_verdict(folder, verdict.with_(manifest=""))


__all__ = ["AFTER", "STAGES", "Outcome", "bases", "reseal", "run", "shared"]

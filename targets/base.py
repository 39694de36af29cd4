"""What a target is. Each lives in a folder of its own and inherits only from this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol

from goldfold.exporter.contract import Contract, Reference, Run, Words
from goldfold.exporter.options import O, Options

if TYPE_CHECKING:  # an artifact is opened without either
    from goldfold.exporter.ir.program import Program
    from goldfold.exporter.passes.base import Pass
    from goldfold.exporter.passes.set_precision import Computed


class Begun(Protocol):
    """Work of a target's that goes on beside the export (`Target.begin`)."""

    def close(self) -> None:
        """End it, finished or not: no process of it is left afterwards. May be called twice."""
        ...


class Kept(Protocol):
    """Finished work that outlives an export (exporter/system/cache.py): files by name, under all
    that they follow from. May forget anything at any time."""

    def files(self, stage: str, **parts: Any) -> dict[str, bytes] | None: ...
    def keep(self, stage: str, files: Mapping[str, bytes], **parts: Any) -> None: ...


@dataclass(frozen=True)
class Built:
    """What `Target.make` wrote."""

    options: Options
    """What it was built with."""
    said: tuple[str, ...] = ()
    """What the manifest should say of the build, one sentence each."""
    left_out: tuple[str, ...] = ()
    """What the user did not name and could not be had, one sentence each: for the manifest, too."""


class Target(ABC, Generic[O]):
    """A runtime that artifacts are built for."""

    name: ClassVar[str]
    """As on the command line."""
    extra: ClassVar[str | None]
    """The extra of the distribution that installs what it needs; None if nothing."""
    platforms: ClassVar[tuple[str, ...]] = ()
    """Where its vendor has packages, as "Linux x86_64" (`platform.system()` and `.machine()`);
    everywhere if empty."""
    precisions: ClassVar[tuple[str, ...]]
    """What it offers; anything else is refused before tracing."""
    typed: ClassVar[bool]
    """Whether the graph's own types are the precision; if not, half precision is a hint to the
    runtime and the graph stays in f32."""
    rest: ClassVar[str] = "fp32"
    """The floating precision of what a recipe leaves in floating point: what methods are given as
    `precision` where integers are asked for."""
    close_rest: ClassVar[str | None] = None
    """The same for recipes that ask for it to be close (Recipe.around); `rest` if None."""
    quantizes: ClassVar[frozenset[str]] = frozenset()
    """What integers it takes, of "int8", "int4" (weights) and "static" (activations of int8 with a
    fixed scale)."""
    products: ClassVar[Computed] = "f32"
    """What it multiplies integers with integers in, where the rest is half precision
    (SetPrecision.products)."""
    Options: ClassVar[type[Options]] = Options
    """What it may be asked for: its own frozen class (exporter/options.py)."""
    layouts: ClassVar[tuple[str, ...]] = ()
    """Servers that its artifacts can be laid out for (`lay_out`)."""
    call_tokens: ClassVar[int] = 1 << 32
    """What a call of the runtime costs beside its tokens, in tokens (exporter/evaluate/batches.py).
    Where it was not measured, so much that calls are as few as can be, and padding least only
    then."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why this machine cannot build for it, in words; None if it can."""

    def cannot_run(self, folder: Path | None = None) -> str | None:
        """Why this machine, able to build, cannot run the artifact in `folder`, or any; None if it
        can."""
        return None

    def allow(self, needs: Collection[str], options: O) -> O:
        """`options` as asked, narrowed to what takes integers of the kinds `needs` (`quantizes`).

        Raises TargetError where the two do not go together. Called before `settle`.
        """
        return options

    def settle(self, precision: str, options: O, max_length: int) -> O:
        """`options` with this target's defaults filled in, for a model of `max_length` tokens.

        Raises TargetError for what it cannot do. Called before anything is traced.
        """
        return options

    def narrow(self, contract: Contract, options: O) -> Contract:
        """What an artifact with these options promises: static lengths may shorten the texts."""
        return contract

    def begin(self, words: Words, folder: Path, kept: Kept | None = None) -> Begun | None:
        """Start, beside the export, what needs no graph; None if there is nothing to start, as
        where `kept` has it already.

        Called once an export, before the model is traced, for all artifacts of this target.
        Returns at once. What it writes, it writes into `folder`; what goes wrong, `finish` says.
        """
        return None

    @abstractmethod
    def tail(
        self, precision: str, contract: Contract, peaks: Mapping[str, float]
    ) -> tuple[Pass, ...]:
        """Its own laws, after the common pipeline. `peaks` are the largest magnitudes on
        calibration texts by value, where the precision asks for them."""

    @abstractmethod
    def executes(self, precision: str) -> bool:
        """Whether what is measured on this machine is really computed in `precision`. Where it is
        not, the emulator's figures are the proof, and the measured ones stand beside them."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """The vendor packages that shape the artifact, by distribution name."""

    @abstractmethod
    def build(self, program: Program, precision: str, folder: Path, options: O) -> tuple[str, ...]:
        """Write the target's files into `folder`, deterministically, from a program its tail has
        seen.

        `program` may be used up; `options` are settled. Returns what the manifest should say of the
        build, one sentence each. Raises RewriteError for an op it cannot spell, naming op, node and
        source module.
        """

    def make(
        self,
        program: Program,
        precision: str,
        folder: Path,
        options: O,
        asked: O,
    ) -> Built:
        """`build`, with as much of `options` as the program allows: what it cannot have is left out
        where the user, who `asked`, did not name it.

        Raises what `build` raises.
        """
        return Built(options, self.build(program, precision, folder, options))

    def finish(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        reference: Reference,
        begun: Begun | None = None,
    ) -> tuple[str, ...]:
        """Write what other tools open the artifact by, once `folder` holds all but its manifest:
        deterministically. `begun` is what `begin` returned; its `close` is the caller's.

        Returns what the manifest should say of it, one sentence each."""
        return ()

    @abstractmethod
    def load(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        threads: int | None,
        streams: int | None = None,
    ) -> Run:
        """Open what `build` wrote, for any number of threads at a time: what is returned gives each
        caller its own result (targets/pool.py helps), and an array that nothing writes to again.

        `threads` limits the runtime; `streams` is how many callers it should compute at once,
        where it can be told. Raises ArtifactError if the runtime refuses the file, TargetError
        where this machine cannot run it.
        """

    def after_fork(self) -> str | None:
        """Why no artifact can be opened in the fork of a process that has opened one, in words;
        None if it can."""
        return "the threads of its runtime do not survive a fork"

    def stand_in(
        self, folder: Path, contract: Contract, precision: str, threads: int | None
    ) -> Run:
        """What is measured in the artifact's place where `cannot_run` gives a reason."""
        return self.load(folder, contract, precision, threads)

    def stands_in(self, precision: str) -> str:
        """What `stand_in` runs, in words."""
        return "the artifact"

    def beside(
        self, folder: Path, contract: Contract, precision: str, threads: int | None
    ) -> dict[str, Run]:
        """Other runtimes on what `stand_in` runs, by name: for the record, not for the gate."""
        return {}

    def lay_out(
        self, folder: Path, contract: Contract, precision: str, layout: str, out: Path
    ) -> tuple[str, ...]:
        """Write the artifact in `folder` as one of `layouts` into the empty folder `out`. Returns
        what a person should know, one sentence each. Raises TargetError if the artifact lacks
        what the server needs."""
        raise NotImplementedError

    def parts(self, folder: Path) -> dict[str, str]:
        """The nodes and constants of its own file by name, each in words or by a digest: what
        `goldfold diff` compares. Empty where nothing can be said. Raises ArtifactError if the file
        is damaged."""
        return {}

    def refers(self, folder: Path) -> Collection[str]:
        """The files, by their paths below `folder`, that its own files tell a runtime to read: each
        must be one that the manifest names. Raises ArtifactError for what cannot be read."""
        return ()

    @abstractmethod
    def census(self, folder: Path) -> dict[str, int]:
        """What the runtime really executes: kernels or nodes by kind, most frequent first."""

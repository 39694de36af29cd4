"""The interface of a target. Each target has its own folder and inherits only from this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol

from goldfold.exporter.contract import Contract, Reference, Run, Served, Words
from goldfold.exporter.options import O, Options
from goldfold.targets import loading, usage
from goldfold.targets.loading import Runtime
from goldfold.targets.usage import Use

if TYPE_CHECKING:  # an artifact is opened without any
    import numpy as np

    from goldfold.exporter.ir.program import Program
    from goldfold.exporter.passes.base import Pass
    from goldfold.exporter.passes.set_precision import Computed


class Begun(Protocol):
    """A target's job that runs beside the export (`Target.begin`)."""

    def close(self) -> None:
        """End the job, finished or not: no process of it is left afterwards. May be called
        twice."""
        ...


class Companion(Protocol):
    """A tokenizer beside tokenizer.json. Raises ArtifactError if its file does not run."""

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[int] | None]:
        """Returns the ids of each text, specials included; None for a text that its runtime's
        Python cannot hand over."""
        ...


class Kept(Protocol):
    """A store of finished work that outlives an export (exporter/system/cache.py): files by name,
    under all inputs that decide them. It may forget anything at any time."""

    def files(self, stage: str, **parts: Any) -> dict[str, bytes] | None: ...
    def keep(self, stage: str, files: Mapping[str, bytes], **parts: Any) -> None: ...


class Elsewhere(Protocol):
    """An artifact that is open in another program (`Target.elsewhere`)."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """The program's own account: `backend`, `threads`, `version` of the runtime, `engine`,
        `seconds` until it was open, `canaries`, and `notes`; `error` alone where it could not open
        the artifact, in one sentence."""
        ...

    def run(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        """Runs the artifact there, as a Run does. Raises TargetError if the program fails."""
        ...

    def tokenize(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Returns the token ids that the program makes of texts with their prompts, cut to
        `length`."""
        ...

    def peak(self) -> int | None:
        """Returns the most bytes that the program has held in memory; None where this system does
        not tell."""
        ...

    def close(self) -> None:
        """End the program: no process of it is left. May be called twice."""
        ...


@dataclass(frozen=True)
class Built:
    """The result of `Target.make`."""

    options: Options
    """The options of the build."""
    said: tuple[str, ...] = ()
    """Notes for the manifest on the build, one sentence each."""
    left_out: tuple[str, ...] = ()
    """Parts that were impossible and that the user did not name, one sentence each; also for the
    manifest."""
    proved: Mapping[str, str] = field(default_factory=dict)
    """The sha256 of files whose contents the target has proved itself, by name: they may not change
    until the artifact is sealed."""


class Target(ABC, Generic[O]):
    """A runtime for which artifacts are built."""

    name: ClassVar[str]
    """The target's name on the command line."""
    extra: ClassVar[str | None]
    """The extra of the distribution that installs the target's packages; None if it needs none."""
    platforms: ClassVar[tuple[str, ...]] = ()
    """Platforms of the vendor's packages, as "Linux x86_64" (`platform.system()` and `.machine()`);
    all if empty."""
    precisions: ClassVar[tuple[str, ...]]
    """The precisions of the target; any other is refused before tracing."""
    strongly_typed: ClassVar[bool]
    """Whether the target is strongly typed: the graph's own types are the precision. If not, half
    precision is a hint to the runtime and the graph stays in fp32."""
    fallback: ClassVar[str] = "fp32"
    """The fallback precision of values that a recipe leaves in floating point: methods get it as
    `precision` where integers are asked for."""
    close_fallback: ClassVar[str | None] = None
    """The fallback precision of recipes that ask for a close one (Recipe.around); `rest` if
    None."""
    quantizes: ClassVar[frozenset[str]] = frozenset()
    """Kinds of integers that the target takes, of "int8", "int4" (weights) and "static"
    (activations of int8 with a fixed scale)."""
    integer_sums: ClassVar[Computed] = "f32"
    """The accumulation precision of integer products, where the fallback is half precision
    (SetPrecision.products)."""
    Options: ClassVar[type[Options]] = Options
    """The options of the target: its own frozen class (exporter/options.py)."""
    companion_files: ClassVar[tuple[str, ...]] = ()
    """Files of the target's artifacts, beside the model and the tokenizer, by which other clients
    turn texts into token ids: a verification compares them with what the export proved."""
    layouts: ClassVar[tuple[str, ...]] = ()
    """Servers for which `lay_out` can lay its artifacts out."""
    together: ClassVar[frozenset[str]] = frozenset()
    """Those of `layouts` that hold several artifacts of one model, each of its own precision."""
    canaried: ClassVar[frozenset[str]] = frozenset()
    """Those of `layouts` whose client computes canaries (exporter/artifact/canaries.py)."""
    places: ClassVar[Mapping[str, str]] = {}
    """Other programs in which `elsewhere` runs its artifacts, each with the layout that it
    opens."""
    call_tokens: ClassVar[int] = 1 << 32
    """The fixed cost of a runtime call, in tokens (exporter/evaluate/batches.py). Where it was not
    measured, it is so large that the number of calls is minimal, and padding is minimal only after
    that."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Returns why this machine cannot build for the target, in words; None if it can."""

    def cannot_run(self, folder: Path | None = None) -> str | None:
        """Returns why this machine, able to build, cannot run the artifact in `folder`, or any;
        None if it can."""
        return None

    def allow(self, needs: Collection[str], options: O) -> O:
        """Returns the `options`, narrowed to those that take integers of the kinds `needs`
        (`quantizes`).

        Raises TargetError where the two do not go together. Called before `settle`.
        """
        return options

    def settle(self, precision: str, options: O, max_length: int) -> O:
        """Returns `options` with this target's defaults filled in, for a model of `max_length`
        tokens.

        Raises TargetError for options that the target cannot fulfil. Called before anything is
        traced.
        """
        return options

    def narrow(self, contract: Contract, options: O) -> Contract:
        """Returns the contract of an artifact with these options: static lengths may shorten the
        texts."""
        return contract

    def begin(self, words: Words, folder: Path, kept: Kept | None = None) -> Begun | None:
        """Start the work that needs no graph, beside the export; None if there is nothing to start,
        for example where `kept` has the result already.

        Called once per export, before the model is traced, for all artifacts of this target.
        Returns at once. The job writes only into `folder`; `finish` reports its errors.
        """
        return None

    def lowers(self) -> Collection[str]:
        """Returns the ops outside ONNX, as `goldfold.BandAttention`, that the target's lowering
        table has a row for. Passes decompose the others (exporter/passes/pipeline.py,
        DECOMPOSES)."""
        return ()

    def own_passes(
        self, precision: str, contract: Contract, peaks: Mapping[str, float]
    ) -> tuple[Pass, ...]:
        """Returns passes for this target alone, in order; a pass that decomposes an op stands among
        them where its place matters. `peaks` are the largest magnitudes on calibration texts by
        value, where the precision asks for them."""
        return ()

    def backend_passes(
        self, precision: str, contract: Contract, peaks: Mapping[str, float]
    ) -> tuple[Pass, ...]:
        """Returns the passes that run after the common pipeline: `own_passes`, and then those that
        decompose what the target does not lower (`lowers`)."""
        from goldfold.exporter.passes.pipeline import decompositions

        own = self.own_passes(precision, contract, peaks)
        listed = {type(one) for one in own}
        return (*own, *(one for one in decompositions(self.lowers()) if type(one) not in listed))

    def first_passes(self, options: O) -> tuple[Pass, ...]:
        """Returns the passes that `options`, settled, ask for in front of `backend_passes`, where
        attention is still one op."""
        return ()

    def last_passes(self, options: O) -> tuple[Pass, ...]:
        """Returns the passes that write the program as `options`, settled, ask for: after
        `backend_passes`, and after all that reads its ops by name."""
        return ()

    @abstractmethod
    def executes(self, precision: str) -> bool:
        """Returns whether this machine really computes the measured artifact in `precision`. Where
        it does not, the emulator's figures are the proof, and the measured ones stand beside
        them."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Returns the versions of the vendor packages that shape the artifact, by distribution
        name."""

    def runtime(self) -> str:
        """Returns the runtime that computes the target's artifacts here, with its version."""
        return ", ".join(f"{name} {version}" for name, version in self.versions().items())

    @abstractmethod
    def build(self, program: Program, precision: str, folder: Path, options: O) -> tuple[str, ...]:
        """Write the target's files into `folder`, deterministically, from a program that the
        backend passes have seen.

        `program` may be used up; `options` are settled. Returns notes for the manifest on the
        build, one sentence each. Raises RewriteError for an op that the target cannot express,
        naming op, node and source module.
        """

    def make(
        self,
        program: Program,
        precision: str,
        folder: Path,
        options: O,
        asked: O,
    ) -> Built:
        """Build with as much of `options` as the program allows: an impossible option is left out
        where the user, whose options are `asked`, did not name it.

        Raises the errors of `build`.
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
        """Write the files by which other tools open the artifact, once `folder` holds all but its
        manifest: deterministically. `begun` is the job that `begin` returned; the caller closes it.

        Returns notes for the manifest on these files, one sentence each."""
        return ()

    def opened_by(self, precision: str) -> Runtime | None:
        """Returns the runtime of `load.py`, which opens the artifact without goldfold
        (targets/loading.py); None if the target has no such program."""
        return None

    def uses(self, contract: Contract, precision: str, folder: Path) -> Iterable[Use]:
        """Returns the ways to use the artifact in `folder`, for its README.md, beside goldfold and
        load.py (targets/usage.py)."""
        return ()

    def all_uses(self, contract: Contract, precision: str, folder: Path) -> tuple[Use, ...]:
        """Returns all ways to use an artifact, goldfold's own first."""
        runtime = self.opened_by(precision)
        own = () if runtime is None else (usage.own(contract, runtime.packages),)
        first = usage.goldfold(contract, self.extra, folder.name)
        return (first, *own, *self.uses(contract, precision, folder))

    def write_loader(self, folder: Path, contract: Contract, precision: str) -> None:
        """Write `load.py` into an artifact, where the target has one."""
        runtime = self.opened_by(precision)
        if runtime is not None:
            said = loading.text(contract, runtime, self.call_tokens)
            (folder / loading.LOADER).write_text(said, encoding="utf-8")

    def restate(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        reference: Reference,
        tokenizer: str,
        options: O,
    ) -> None:
        """Write those of `companion_files` that follow from these alone once more, into an empty
        folder: `contract` is the one that the source states, and `tokenizer` its tokenizer.json.
        What the artifact holds must be the same bytes."""

    def companions(self, folder: Path, contract: Contract) -> Mapping[str, Companion]:
        """Returns the further tokenizers of an artifact that this machine can run, by file: each
        gives texts the ids that its clients get. Empty where there is none."""
        return {}

    @abstractmethod
    def load(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        threads: int | None,
        streams: int | None = None,
    ) -> Run:
        """Open the files of `build`, for any number of threads at a time: the returned callable
        gives each caller its own result (targets/pool.py helps), and an array that nothing writes
        to again.

        `threads` limits the runtime; `streams` is the number of callers that it should compute at
        once, where the runtime allows a choice. Raises ArtifactError if the runtime refuses the
        file, TargetError where this machine cannot run it.
        """

    def after_fork(self) -> str | None:
        """Returns why no artifact can be opened in the fork of a process that has opened one, in
        words; None if it can."""
        return "the threads of its runtime do not survive a fork"

    def reference_run(
        self, folder: Path, contract: Contract, precision: str, threads: int | None
    ) -> Run:
        """Returns the stand-in that is measured in the artifact's place where `cannot_run` gives a
        reason."""
        return self.load(folder, contract, precision, threads)

    def exact_run(self, folder: Path, contract: Contract) -> Run | None:
        """Returns a run of the artifact's file in f32 that rounds nothing by itself, whatever the
        artifact's precision: it shows what the file says. None where the target has none."""
        return None

    def reference_name(self, precision: str) -> str:
        """Returns a description of the stand-in, in words."""
        return "what the target opens in its place"

    def cross_checks(
        self, folder: Path, contract: Contract, precision: str, threads: int | None
    ) -> dict[str, Run]:
        """Returns other runtimes for the file of `reference_run`, by name: a cross-check for the
        record, not for the gate."""
        return {}

    def lay_out(self, served: Sequence[Served], layout: str, out: Path) -> tuple[str, ...]:
        """Write artifacts of one model as one of `layouts` into the empty folder `out`: one, or
        several where the layout is in `together`. Returns notes for the user, one sentence each.
        Raises TargetError if an artifact lacks what the server needs, UsageError for artifacts that
        do not go together."""
        raise NotImplementedError

    def absent(self, place: str) -> str | None:
        """Returns why there is no `place` (`places`) on this machine, in words; None if there
        is."""
        return f"{self.name} runs in no {place}"

    def elsewhere(self, place: str, laid: Path, threads: int) -> Elsewhere:
        """Open the folder `laid`, in the layout of `place`, in that program. The caller closes it.

        Raises TargetError if the program does not start, or says nothing.
        """
        raise NotImplementedError

    def parts(self, folder: Path) -> dict[str, str]:
        """Returns the nodes and constants of the target's own file by name, each in words or by a
        digest: `goldfold diff` compares them. Empty where the target cannot tell. Raises
        ArtifactError if the file is damaged."""
        return {}

    def refers(self, folder: Path) -> Collection[str]:
        """Returns the files, by their paths below `folder`, that the target's own files tell a
        runtime to read: the manifest must name each. Raises ArtifactError for a file that cannot be
        read."""
        return ()

    @abstractmethod
    def census(self, folder: Path) -> dict[str, int]:
        """Returns the kernels or nodes that the runtime really executes, by kind, most frequent
        first."""

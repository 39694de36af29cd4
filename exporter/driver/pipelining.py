"""The pipeline of goldfold.toml: what has changed is exported, what has not is kept, and all of it
is held to the file's limits, laid out and reported.

An artifact is kept where its key is that of the last run, and every file of it has the digest that
its manifest gives. The key names everything that decides an artifact: the digests of the source's
files, the options, the recipe, goldfold itself and the libraries that it exports with. The last
run's keys and figures lie in pipeline.json beside the artifacts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path

from goldfold.exporter import __version__, registry, report
from goldfold.exporter.artifact import bundle, sidecars, unbuilt
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.driver import exporting, request
from goldfold.exporter.driver.laying import Laid, lay
from goldfold.exporter.driver.pipeline_state import PAGE, State, keep, last_of, write_text
from goldfold.exporter.driver.releasing import against
from goldfold.exporter.driver.request import Pair
from goldfold.exporter.errors import ArtifactError, GateMissed, GoldfoldError, UsageError
from goldfold.exporter.frontend import characters, given, packaged
from goldfold.exporter.frontend.source import Source, open_model
from goldfold.exporter.options import own
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.report.limits import held, status_of
from goldfold.exporter.report.pages import ArtifactFigures, Report
from goldfold.exporter.report.pipeline_file import PipelineFile, nearest
from goldfold.exporter.report.verdict_page import Figure, verdict_page
from goldfold.exporter.report.write import write_files
from goldfold.exporter.system.cache import key
from goldfold.exporter.system.files import digest
from goldfold.golden.judging.pairs import LEAST


@dataclass(frozen=True)
class Done:
    """A finished run."""

    report: Report
    page: Path
    kept: tuple[str, ...]
    """Names of the artifacts that were not exported again."""
    results: Sequence[Result]
    before: Mapping[str, Figure]
    """The last run's figures by artifact."""
    laid: Sequence[Laid]
    notes: tuple[str, ...]
    errors: Sequence[GoldfoldError] = field(default=())

    @property
    def error(self) -> GoldfoldError | None:
        """The error with which the run ends: the one of the highest code."""
        errors = list(self.errors)
        missed = [one.folder for one in self.report.artifacts if one.state == "failed"]
        if missed:
            errors.append(GateMissed(f"missed a gate or a limit: {', '.join(missed)}: {self.page}"))
        return max(errors, key=lambda one: one.code, default=None)


def run(
    asked: PipelineFile,
    *,
    cache: bool = True,
    force: bool = False,
    listener: Listener | None = None,
) -> Done:
    """Run a pipeline: see the module's docstring. `force` writes into a folder that holds other
    things.

    Raises what `goldfold.export` raises before anything is written; then verdict.md and the report
    in the folder say so, where the folder is ours. Whatever befalls single artifacts is in
    `Done.error`.
    """
    recipes = {name: (text, recipe) for text in dict.fromkeys(asked.precisions)
               for name, recipe in request.recipes([text]).items()}  # fmt: skip
    request.recipes(asked.precisions)  # refuses two of one name
    known = {name: recipe for name, (_, recipe) in recipes.items()}
    pairs = request.pairs(asked.targets, known)
    names = ["-".join(pair) for pair in pairs]
    _check(asked, known, names)
    if asked.name is None and asked.model == "packaged":
        asked = asked.with_(name=packaged.MINILM.name)
    out = Path(asked.out)
    bundle.check_output(out, names, force)
    try:
        return _run(asked, recipes, pairs, Options(cache, force, listener))
    except GoldfoldError as error:
        with suppress(GoldfoldError):
            _write_broken(out, names, str(error))
        raise


@dataclass(frozen=True)
class Options:
    """What does not decide an artifact."""

    cache: bool
    force: bool
    listener: Listener | None


Recipes = Mapping[str, tuple[str, Recipe | None]]
"""By the precision's name: the text that asks for it, and its recipe."""


def _run(asked: PipelineFile, recipes: Recipes, pairs: Sequence[Pair], options: Options) -> Done:
    out, stages = Path(asked.out), Stages(options.listener)
    last = last_of(out)
    model = model_of(asked)
    with stages("compare"):
        source = open_model(
            model,
            name=asked.name,
            trust_remote_code=asked.trust_remote_code,
            allow_incomplete=asked.allow_incomplete,
            route=asked.route,
        )
        keys = {pair: _key(asked, source, pair, recipes[pair[1]][1]) for pair in pairs}
        stale = [pair for pair in pairs if not _kept(out, pair, keys[pair], last)]
        kept = tuple("-".join(pair) for pair in pairs if pair not in stale)
        stages.note(f"{len(kept)} of {len(pairs)} artifacts are as they were")
    results: list[Result] = []
    errors: list[GoldfoldError] = []
    for targets, precisions in products(stale):
        try:
            results += _export(asked, model, targets, [recipes[one] for one in precisions], options)
        except GoldfoldError as error:
            if not error.results and not error.failures:
                raise
            results += error.results
            errors.append(error)
    names = ["-".join(pair) for pair in pairs]
    notes: list[str] = []

    def ours(found: Report) -> Report:
        chosen, others = _asked_for(found, names)
        if others:
            notes.append(f"Not asked for, and left as they are: {', '.join(others)}.")
        whole = found.with_(artifacts=chosen, status=status_of(chosen))
        return held(whole, asked.limits, asked.require_run)

    with stages("report"):
        found, page = report.write([out], out, check_files=False, change=ours)
        stages.note(str(page))
    states = {one.folder: one.state for one in found.artifacts}
    good = {name for name in names if states.get(name) in ("passed", "proved")}
    if asked.compat is not None:
        said, incompatible = against(asked.compat, out, sorted(good), options.listener)
        notes += said
        errors += incompatible.values()
        good -= incompatible.keys()
    laid = [lay(one, out, good, last.layouts, stages) for one in asked.layouts]
    errors += [one.error for one in laid if one.error is not None]
    notes += [one.note for one in laid if one.note]
    before = {name: entry.figure for name, entry in last.artifacts.items()}
    write_text(out / PAGE, verdict_page(found, before, kept, notes))
    keep(out, found, dict(zip(names, keys.values(), strict=True)), last, laid)
    return Done(found, out / PAGE, kept, results, before, laid, tuple(notes), errors)


def _export(
    asked: PipelineFile,
    model: str,
    targets: Sequence[str],
    recipes: Sequence[tuple[str, Recipe | None]],
    options: Options,
) -> list[Result]:
    judge = asked.judge and any(recipe is not None for _, recipe in recipes)
    return exporting.export(
        model,
        targets,
        [text for text, _ in recipes],
        asked.out,
        name=asked.name,
        force=options.force,
        trust_remote_code=asked.trust_remote_code,
        allow_incomplete=asked.allow_incomplete,
        max_length=asked.max_length,
        dims=asked.dims,
        build={k: v for k, v in asked.options.items() if _takes(targets, k)},
        cache=options.cache,
        judge=judge,
        pairs=asked.pairs or LEAST,
        unseen=asked.unseen,
        route=asked.route,
        scripts=asked.cut.scripts,
        vocabulary=asked.cut.vocabulary,
        texts=asked.texts,
        column=asked.column,
        private_texts=asked.private_texts,
        calibration_texts=asked.calibration_texts,
        listener=options.listener,
    )


def model_of(asked: PipelineFile) -> str:
    """Returns the model as `goldfold.export` takes it. Raises UsageError for a revision of what has
    none."""
    if asked.model != "packaged" or Path(asked.model).is_dir():
        return request.at_revision(asked.model, asked.revision)
    if asked.revision is not None:
        raise UsageError("packaged is one model without revisions; leave revision out")
    return str(packaged.locate(packaged.MINILM))


def _check(asked: PipelineFile, known: Mapping[str, Recipe | None], names: Sequence[str]) -> None:
    """Refuse, before any work, what names nothing. Raises UsageError."""
    for option in asked.options:
        if not _takes(asked.targets, option):
            takers = {n: None for t in asked.targets for n in _fields(t)}
            raise UsageError(
                f"options.{option}: no target here takes it; {nearest(option, takers)}"
            )
    for precision in asked.limits.precision:
        if precision not in known:
            raise UsageError(f"limits.precision.{precision}: {nearest(precision, known)}")
    for table, artifacts in (
        ("limits.artifact", asked.limits.artifact),
        *(("layouts.artifacts", one.artifacts) for one in asked.layouts),
    ):
        for name in artifacts:
            if name not in names:
                raise UsageError(f"{table}: no artifact is called {name}; {nearest(name, names)}")
    if asked.compat is not None and not Path(asked.compat.against).is_dir():
        raise UsageError(
            f"compat.against: there is no folder {asked.compat.against}; fetch the release "
            "first, or leave [compat] out"
        )
    outs = [Path(one.out).resolve() for one in asked.layouts]
    if twice := next((one for one in outs if outs.count(one) > 1), None):
        raise UsageError(f"layouts: two have {twice} as out; give each a folder of its own")
    if asked.judge:
        request.check_judged(known, asked.pairs or LEAST)


def _fields(target: str) -> tuple[str, ...]:
    return registry.target(target).Options.__struct_fields__


def _takes(targets: Sequence[str], option: str) -> bool:
    return any(option in _fields(target) for target in targets)


# --- what is kept


def _key(asked: PipelineFile, source: Source, pair: Pair, recipe: Recipe | None) -> str:
    target, cut = registry.target(pair[0]), asked.cut
    options = own(target.Options, {k: v for k, v in asked.options.items() if _takes(pair[:1], k)})
    return key(
        source=source.digests,
        name=source.name,
        route=source.route,
        trusted=asked.trust_remote_code,
        incomplete=asked.allow_incomplete,
        pair=list(pair),
        recipe=None if recipe is None else recipe.plain(),
        options=options.plain(),
        max_length=asked.max_length,
        dims=list(asked.dims),
        scripts=list(characters.canonical(cut.scripts)) if cut.scripts else [],
        vocabulary=""
        if cut.vocabulary is None
        else _digest(Path(cut.vocabulary), "cut.vocabulary"),
        texts=_texts(asked.texts, "texts"),
        column=asked.column,
        private=asked.private_texts,
        calibration=[]
        if recipe is None and pair[1] == "fp32"
        else _texts(asked.calibration_texts, "calibration_texts"),
        judge=(asked.pairs or LEAST) if asked.judge and recipe is not None else 0,
        unseen=asked.unseen,
        goldfold=f"{__version__} {_code()}",
        versions={**sidecars.versions(), **target.versions()},
    )


def _digest(file: Path, option: str) -> str:
    try:
        return digest(file)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}; correct {option}") from None


def _texts(files: Sequence[str], option: str) -> list[list[str]]:
    """Returns what decides the texts of some files: how each is read, and its digest."""
    found = [given.split(one) for one in files]
    return [[file.suffix, way, _digest(file, option)] for file, way in found]


@cache
def _code() -> str:
    """Returns the sha256 of goldfold's own files: a change between two versions counts."""
    here, state = Path(__file__).parents[2], sha256()
    for room in ("exporter", "golden", "targets"):
        for path in sorted((here / room).rglob("*")):
            if path.suffix in (".py", ".toml", ".template", ".jinja") and path.is_file():
                raw = path.read_bytes()
                state.update(f"{path.relative_to(here).as_posix()} {len(raw)}\n".encode() + raw)
    return state.hexdigest()


def _kept(out: Path, pair: Pair, wanted: str, last: State) -> bool:
    """Returns whether an artifact is that of the last run, down to every digest, and passed."""
    name = "-".join(pair)
    entry = last.artifacts.get(name)
    if entry is None or entry.key != wanted:
        return False
    others = (out / f"{name}{bundle.FAILED}", out / f"{name}{unbuilt.UNBUILT}")
    if any(os.path.lexists(other) for other in others):
        return False
    try:
        return bundle.open_bundle(out / name).manifest.digest == entry.manifest
    except ArtifactError:
        return False


def products(stale: Sequence[Pair]) -> list[tuple[list[str], list[str]]]:
    """Returns the pairs as few products of targets and precisions, which one export each takes."""
    asked: dict[str, list[str]] = {}
    for target, precision in stale:
        asked.setdefault(target, []).append(precision)
    products: dict[tuple[str, ...], list[str]] = {}
    for target, precisions in asked.items():
        products.setdefault(tuple(precisions), []).append(target)
    return [(targets, list(precisions)) for precisions, targets in products.items()]


# --- what is reported


def _asked_for(
    found: Report, names: Sequence[str]
) -> tuple[tuple[ArtifactFigures, ...], list[str]]:
    """Returns the figures of the artifacts that were asked for, in their order, and the names of
    others. Where one failed or was not built, an earlier good one of its name is not its result."""
    chosen: list[ArtifactFigures] = []
    for name in names:
        mine = [one for one in found.artifacts if one.folder in (name, f"{name}{bundle.FAILED}")]
        bad = [one for one in mine if one.state not in ("passed", "proved")]
        chosen += bad or mine
        if not mine:
            chosen.append(_unbuilt(name, "There is no such artifact in the folder."))
    known = {*names, *(f"{name}{bundle.FAILED}" for name in names)}
    return tuple(chosen), [one.folder for one in found.artifacts if one.folder not in known]


def _unbuilt(name: str, reason: str) -> ArtifactFigures:
    target, _, precision = name.partition("-")
    return ArtifactFigures(
        folder=name, state="unbuilt", reasons=(reason,), target=target, precision=precision
    )


def _write_broken(out: Path, names: Sequence[str], said: str) -> None:
    """Report a run that ended before there were artifacts, so that no earlier report stands for
    it."""
    figures = tuple(_unbuilt(name, said) for name in names)
    broken = Report(goldfold=__version__, status="failed", artifacts=figures)
    write_files(broken, out)
    before = {name: entry.figure for name, entry in last_of(out).artifacts.items()}
    write_text(out / PAGE, verdict_page(broken, before, ()))

"""The source model: its folder is opened, and the unsafe and the unsupported are refused before any
heavy work.

Only JSON, safetensors headers and names are read here: no torch, no transformers, no weights.
Refusals fall under three heads, each a `ModelError` of one line:

- **unsafe**: code of the model's own, settings that load other files than those that were checked
  (settings.py), paths that leave the folder.
- **damaged**: files cut off or malformed; NaN and Inf in the weights (`check_finite`).
- **unsupported**: another kind of model (model_kinds.py), a module that goldfold does not know
  (modules.py), or a setting that the graph cannot carry. Nothing is silently dropped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend import (
    adapters,
    hub,
    model_folder,
    model_kinds,
    modules,
    routes,
    settings,
    sparse_modules,
    towers,
    weights,
)
from goldfold.exporter.frontend.module_spec import ModuleSpec
from goldfold.exporter.frontend.settings import OwnCode
from goldfold.exporter.frontend.weights import read_object, refusal
from goldfold.exporter.system import names
from goldfold.exporter.system.files import expanded
from goldfold.golden import store
from goldfold.golden.tasks import EMBEDDING, SPARSE

_LONGEST_NAME = 255
_GENERIC_NAMES = ("model", "snapshot")
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?")
"""org/name, or org/name@revision: a commit, tag or branch."""


@dataclass(frozen=True)
class Source:
    """A model's folder that passed every check of `open_model`.

    Attributes:
        path: the folder.
        name: what the model is called in messages, artifacts and stores.
        task: what the model gives (golden/tasks.py).
        modules: in the order in which they run.
        prompts: prompt by name; empty if the model declares none.
        default_prompt_name: the prompt that sentence-transformers adds unasked, if any.
        weights: the files that hold the weights, an index before its shards.
        licence_files: licence, notice and terms files, to be copied into every artifact.
        card: the model card, README.md.
        licence: the card's `license:` value, for example "gemma".
        seen: the folder as it was when it was opened.
        code: the classes that the model takes from code of its own (`auto_map`).
        trusted: whether code that comes with the model may run.
        incomplete: whether a checkpoint may lack tensors that the model reads, or hold some that
            nothing reads.
        loads: the folder that libraries load the model from; another than `path` where pickled
            weights were converted (exporter/frontend/readiness.py).
        converted: the weights in that other folder.
        notes: remarks for the user on how the model was opened, one sentence each.
        route: the route that `modules` are of, in a model that has several.
        hub_id: the model's name on the hub, if it was fetched from there.
    """

    path: Path
    name: str
    task: str
    modules: tuple[ModuleSpec, ...]
    prompts: dict[str, str]
    default_prompt_name: str | None
    weights: tuple[Path, ...]
    licence_files: tuple[Path, ...]
    card: Path | None
    licence: str | None
    seen: model_folder.Snapshot
    code: tuple[OwnCode, ...]
    trusted: bool
    incomplete: bool
    loads: Path
    converted: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    route: str = ""
    hub_id: str = ""

    @cached_property
    def digests(self) -> dict[str, str]:
        """Returns the sha256, in hex, of each file of the model, by its path below the folder,
        sorted.

        Hidden files, and the same weights in other formats, are left out: they do not change the
        export. Computed once, at first use (1 s for EmbeddingGemma's 1.2 GB when cached).
        """
        keys = sorted(_list_files(self))
        self.seen.cover(keys)
        found = {key: weights.digest_file(self.path / key) for key in keys}
        self.seen.check(found, found)
        return found

    @property
    def defining(self) -> dict[str, str]:
        """Those of `digests` whose files define the model's function: files with defining names
        (goldfold.golden.store.defines), in a folder of whatever name that a module names, and
        weights, wherever a setting has them."""
        loaded = {file.relative_to(self.path).as_posix() for file in self.weights}
        folders = {f"{PurePosixPath(m.path).as_posix()}/" for m in self.modules if m.path}
        return {
            key: digest
            for key, digest in self.digests.items()
            if key in loaded
            or store.defines(key)
            or any(store.defines(key.removeprefix(f)) for f in folders if key.startswith(f))
        }

    @property
    def fingerprint(self) -> str:
        """The model's identity: goldfold.golden.store.fingerprint of `defining`."""
        return store.fingerprint(self.defining)

    @property
    def static(self) -> bool:
        """Whether a table of tokens stands in the transformer's place."""
        return self.modules[0].kind == modules.STATIC

    @property
    def tensors(self) -> tuple[Path, ...]:
        """The safetensors files that are loaded, below `loads`."""
        files = self.converted or self.weights
        return tuple(file for file in files if file.suffix == ".safetensors")

    @property
    def pickles(self) -> tuple[Path, ...]:
        """Those of `weights` that are pickled."""
        return tuple(file for file in self.weights if file.suffix == ".bin")

    @property
    def without_its_code(self) -> str:
        """A hint, with a remedy, for weights that do not fit the class; "" if no code of the
        model's was left aside."""
        if not self.code or self.trusted:
            return ""
        if all(code.here for code in self.code):
            return ", or pass --trust-remote-code, for it comes with code of its own"
        return (
            ", or put the code that its auto_map names on the hub into its folder, name it there "
            "and pass --trust-remote-code"
        )

    def check_unchanged(self) -> None:
        """Raise ModelError if a file of the model has changed since it was opened, or there is
        another: `digests` then no longer describes what was made of the model."""
        self.seen.check(self.digests, _list_files(self))


def open_model(
    name_or_path: str | Path,
    *,
    name: str | None = None,
    trust_remote_code: bool = False,
    allow_incomplete: bool = False,
    route: str | None = None,
) -> Source:
    """Open a model's folder, or fetch it from the hub, and check all but its weights.

    Args:
        name_or_path: a folder, or a hub id of the form "org/name" or "org/name@revision". A folder
            that exists wins.
        name: what to call the model; by default its folder's or the hub id's name.
        trust_remote_code: allow `auto_map`, custom activations and settings that choose files.
        allow_incomplete: allow a checkpoint that is not all of the model, or more.
        route: the route of a model that has several, as a sparse encoder with modules of their own
            for queries and documents; its name becomes part of the model's.

    Raises:
        ModelError: one line saying what is wrong, where, and what to do.
        UsageError: `name` is no line of text, or the model has no such route, or several.
    """
    if name is not None and (not name.strip() or names.steers(name) or len(name) > _LONGEST_NAME):
        raise UsageError(
            f"--name {names.line(name[:40])!r}: a name is one line of 1 to {_LONGEST_NAME} letters"
        )
    path, default_name, hub_id, revision = _locate(name_or_path, trust_remote_code)
    seen = model_folder.look(path)
    adapter = adapters.found(path)
    if adapter is not None:
        path = adapters.merged(path, adapter)
        seen = model_folder.look(path)
    task = model_kinds.task_of(path)
    listed = modules.read(path, trust_remote_code, task)
    found = routes.chosen(names.line(default_name), listed, route)
    # A library that loads one route loads them all.
    folders = list(dict.fromkeys(m.path for m in listed if modules.has_weights(path, m)))
    if hub_id and (lacking := [f for f in folders if not any((path / f).glob("*.safetensors"))]):
        path = hub.fetch_pickles(hub_id, lacking, revision)
        seen = model_folder.look(path)
    prompts, default_prompt_name = _read_prompts(path, task, listed)
    trunks = {m.path: None for m in listed if m.kind in ("Transformer", "MLMTransformer")}
    for module in listed:
        if module.kind == modules.STATIC:
            _check_table(path / module.path)
        if module.path in trunks or module.kind == sparse_modules.STATIC:
            _check_trunk(path / module.path, trust_remote_code)
        if module.kind not in ("Transformer", modules.STATIC):
            modules.check_settings(path, module, trust_remote_code)
    card = model_folder.card_of(path)
    code = tuple(one for trunk in trunks for one in settings.own_code(path / trunk))
    plain = (path / modules.LIST).is_file() or task != EMBEDDING
    notes = () if adapter is None else (_MERGED,)
    notes += (towers.NOTE,) if found[0].embeds else () if plain else (_WITHOUT_LIST,)
    if modules.leaves_prompts_out(path, found):
        notes += (_UNPOOLED if any(prompts.values()) else _WITHOUT_PROMPTS,)
    taken = next((module.route for module in found if module.route), "")
    if len(found) < len(listed):
        default_name = f"{default_name}-{taken}"
    return Source(
        path=path,
        name=name or names.line(default_name),
        task=task,
        modules=found,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        weights=tuple(
            file for f in folders for file in weights.find_weights(path / f, f in trunks)
        ),
        licence_files=model_folder.licence_files(path),
        card=card,
        licence=None if card is None else model_folder.licence_of(card),
        seen=seen,
        code=code,
        trusted=trust_remote_code and bool(code or modules.runs_own_code(path, listed)),
        incomplete=allow_incomplete,
        loads=path,
        hub_id=hub_id,
        notes=notes,
        route=taken,
    )


_WITHOUT_PROMPTS = (
    "Its pooling leaves the tokens of a prompt out, and the model names no prompt: the artifact "
    "embeds texts without one, and an instruction that a caller puts before a text is pooled."
)
_MERGED = (
    "The model is an adapter upon another one; peft merged the two, and the artifact's source is "
    "the result."
)
_UNPOOLED = (
    "Its pooling leaves the tokens of a prompt out: the embedding of a text with a prompt is an "
    "output of its own, sentence_embedding_after_N, where N is the prompt's number in the "
    "contract's unpooled."
)
_WITHOUT_LIST = (
    "There is no modules.json: the model is what sentence-transformers makes of such a folder, the "
    "transformer and pooling without a normalisation."
)


def _check_trunk(folder: Path, trust_remote_code: bool) -> None:
    if not (folder / "config.json").is_file():
        raise refusal(
            f"{folder / 'config.json'}: missing, and a Transformer needs it; fetch the model again"
        )
    settings.check(folder, trust_remote_code)


def _check_table(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file():
        raise refusal(
            f"{folder / 'tokenizer.json'}: missing, and a StaticEmbedding needs it; fetch the "
            "model again"
        )


def check_finite(source: Source, progress: Callable[[int, int], None] | None = None) -> None:
    """Read all safetensors weights of `source` once; refuse NaN and Inf (0.2 s per GB if cached).

    Args:
        source: an opened model. Pickled weights are read once they are converted.
        progress: called with (bytes read so far, bytes in all) after each tensor.

    Raises:
        ModelError: names the file, the tensor, how many values are not finite, the first's index.
    """
    weights.scan_finite(source.tensors, progress)


def _locate(name_or_path: str | Path, trust_remote_code: bool) -> tuple[Path, str, str, str | None]:
    """Returns the model's folder, absolute, its name, and its hub id and revision if it came from
    there."""
    text = str(name_or_path)
    path = expanded(text)
    if "\0" in text or not text.strip():
        raise refusal(f"{text!r}: not the name of a model; give a folder or a hub id org/name")
    if path.is_file():
        raise refusal(f"{path}: is a file; give the SentenceTransformer folder that holds it")
    if path.is_dir():
        path = path.absolute()
        return path, _name_folder(path), "", None
    found = None if isinstance(name_or_path, Path) else HUB_ID.fullmatch(text)
    if found is None:
        raise refusal(
            f"{text}: no such folder, and not a hub id either; a hub id has the form org/name, or "
            "org/name@revision"
        )
    hub_id, revision = found.groups()
    fetched = hub.fetch(hub_id, trust_remote_code, revision)
    return fetched, hub_id.rpartition("/")[2], hub_id, revision


def _name_folder(path: Path) -> str:
    """Returns the folder's own name, or a telling one where that says nothing."""
    # The hub's cache: models--ORG--NAME/snapshots/COMMIT.
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        return path.parents[1].name.rpartition("--")[2]
    real = path.resolve()
    return real.parent.name if real.name in _GENERIC_NAMES else real.name


def _read_prompts(
    path: Path, task: str, listed: Sequence[ModuleSpec]
) -> tuple[dict[str, str], str | None]:
    """Returns the prompts and the default one's name from config_sentence_transformers.json, if
    there."""
    file = path / "config_sentence_transformers.json"
    if not file.is_file():
        return {}, None
    config = read_object(file)
    settings.check_counts(file, config, ("truncate_dim",))
    if task == SPARSE:
        sparse_modules.check_model(file, config, listed)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(
        prompt is None or isinstance(prompt, str) for prompt in prompts.values()
    ):
        raise refusal(f"{file}: prompts must be an object of strings; correct it")
    default = config.get("default_prompt_name")
    if default is not None and default not in {*prompts, *_ALWAYS}:
        raise refusal(
            f"{file}: default_prompt_name {default!r} is none of the prompts {sorted(prompts)}"
        )
    return {name: prompt or "" for name, prompt in prompts.items()}, default


_ALWAYS = ("query", "document")
"""Prompts that every SentenceTransformer has, empty where the model does not say."""


def _list_files(source: Source) -> set[str]:
    """Returns POSIX paths, below the model's folder, of the files that `Source.digests` covers."""
    found = {path.relative_to(source.path).as_posix() for path in source.weights}
    # A module's own folder counts, whatever its name.
    for top in {source.path, *(source.path / module.path for module in source.modules)}:
        for here, folders, files in os.walk(top):
            folders[:] = [f for f in folders if f[0] != "." and f not in hub.OTHER_FORMAT_FOLDERS]
            for name in files:
                path = Path(here, name)
                if name[0] == "." or path.suffix.lower() in hub.OTHER_FORMAT_SUFFIXES:
                    continue
                if path.is_file():
                    found.add(path.relative_to(source.path).as_posix())
    return found

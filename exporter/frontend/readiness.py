"""Readiness: an opened model is prepared for loading. Its code is chosen, pickled weights are
converted, and every weight is read once."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from goldfold.exporter.errors import OutputError
from goldfold.exporter.frontend import modules, settings, weights
from goldfold.exporter.frontend.source import Source, check_finite
from goldfold.exporter.progress import Stages
from goldfold.exporter.system.cache import Cache, key
from goldfold.golden.tasks import EMBEDDING

STAGE = "unpickled"


def ready(source: Source, stages: Stages, cache: Cache | None = None) -> Source:
    """Returns `source` with all that loading it needs. Called within a stage.

    Pickled weights are converted to safetensors once, and kept in `cache`. Raises ModelError for
    code that may not run, weights that cannot be converted, NaN and Inf.
    """
    source = _with_code_settled(source)
    if source.pickles and not source.converted:
        stages.detail("converting pickled weights to safetensors")
        source = _converted(source, cache)
    with ThreadPoolExecutor(1) as pool:  # each reads all weights once, and waits for nothing
        digests = pool.submit(lambda: source.digests)
        check_finite(source, stages.step)
        digests.result()
    said = "; ".join(
        (f"{source.name}, {len(source.modules)} modules, weights finite", *_briefly(source))
    )
    stages.note(said + ("" if cache is None else cache.remarks()))
    return source


def _briefly(source: Source) -> list[str]:
    said = []
    if source.modules[0].embeds:
        said.append("the text's side of a model of images and text")
    elif not (source.path / modules.LIST).is_file() and source.task == EMBEDDING:
        said.append(f"no {modules.LIST}: pooling as sentence-transformers chooses it")
    if source.loads != source.path:
        said.append("pickled weights converted")
    if source.code and not source.trusted:
        said.append("transformers' own class instead of the model's code")
    return said


def _with_code_settled(source: Source) -> Source:
    """Leave the model's own code aside where transformers has the class that it names."""
    if not source.code:
        return source
    from goldfold.exporter.frontend.native_classes import differs

    if source.trusted and all(code.here for code in source.code):
        return source  # sentence-transformers, called with the same arguments, does so too
    kind = next((code.model_type for code in source.code if code.model_type), "")
    needed = [
        (code, why) for code in source.code if (why := differs(kind, code.classes)) is not None
    ]
    if needed:
        if not source.trusted:
            code, why = needed[0]
            raise settings.code_refusal(code, f" ({why})")
        return source
    roles = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer")
    found = [name for code in source.code for role, name in code.classes if role in roles]
    named = f" ({', '.join(found)})" if found else ""
    note = (
        "auto_map names code that comes with the model; it was not run, since transformers has "
        f"classes of these names itself{named}."
    )
    own = source.trusted and modules.runs_own_code(source.path, source.modules)
    return _with(source, trusted=own, notes=(*source.notes, note))


def _converted(source: Source, cache: Cache | None) -> Source:
    """Returns `source`, loaded from a folder of links to its files and to its converted weights."""
    view = Path(tempfile.mkdtemp(prefix="goldfold-model-"))
    atexit.register(shutil.rmtree, view, ignore_errors=True)
    wanted = {file.relative_to(source.path).as_posix(): file for file in source.pickles}
    kept = _kept(source, wanted, view, cache)
    named = {file: file.relative_to(source.path).as_posix() for file in source.weights}
    indexes = {name for file, name in named.items() if file.name == "pytorch_model.bin.index.json"}
    for name in source.digests.keys() - wanted.keys() - indexes:
        _link(source.path / name, view / name)
    found = []
    for number, name in enumerate(sorted(wanted)):
        place = (view / name).with_name(_renamed(Path(name).name))
        _link(kept / f"{number}.safetensors", place)
        found.append(place)
    for name in indexes:
        record = weights.read_object(source.path / name)
        record["weight_map"] = {t: _renamed(f) for t, f in record["weight_map"].items()}
        place = (view / name).with_name("model.safetensors.index.json")
        place.write_text(json.dumps(record), encoding="utf-8")
        found.append(place)
    rest = [view / f.relative_to(source.path) for f in source.weights if f.suffix == ".safetensors"]
    note = "Its weights are pickled; torch's restricted unpickler read them: they were converted."
    return _with(source, loads=view, converted=(*rest, *found), notes=(*source.notes, note))


def _with(source: Source, **changes: Any) -> Source:
    """Returns `source` changed; digests are not computed again."""
    changed = replace(source, **changes)
    if "digests" in vars(source):
        vars(changed)["digests"] = source.digests
    return changed


def _kept(source: Source, wanted: Mapping[str, Path], view: Path, cache: Cache | None) -> Path:
    """Returns the folder with a safetensors file for each of `wanted`, by number, in their
    order."""

    def write(folder: Path) -> None:
        for number, name in enumerate(sorted(wanted)):
            convert(wanted[name], folder / f"{number}.safetensors")

    from goldfold.exporter.frontend.unpickle import convert

    place = key(pickles={name: source.digests[name] for name in wanted})
    kept = None if cache is None else cache.get(STAGE, place, lambda folder: folder)
    if kept is None and cache is not None:
        cache.put(STAGE, place, write)
        kept = cache.get(STAGE, place, lambda folder: folder)
    if kept is None:
        kept = view / ".converted"
        kept.mkdir()
        try:
            write(kept)
        except OSError as error:
            raise OutputError(
                f"cannot convert pickled weights in {view}: {error.strerror or error}; make room, "
                "or name another place with TMPDIR"
            ) from None
    return kept


def _renamed(file: str) -> str:
    """pytorch_model-00001-of-00002.bin → model-00001-of-00002.safetensors, where loaders look."""
    return file.removeprefix("pytorch_").removesuffix(".bin") + ".safetensors"


def _link(target: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target.resolve())

"""What an export keeps: the same bytes with it and without it, and no other program in its
place."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file, save_file

from goldfold import export
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.driver import cached_stages, exporting, preparing
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program, add_constant
from goldfold.exporter.progress import Silent, Stages
from goldfold.exporter.system.cache import FOLDER, Cache, key
from goldfold.golden import store
from tests.conftest import Exported
from tests.test_house import imports_of

ROOT = Path(__file__).parents[2]
RECIPE = """
gains = "balance"
alpha = 0.5
[weights]
bits = 8
rounding = "gptq"
[table]
bits = 4
block = 16
[[rule]]
kinds = ["query"]
activations = "static"
[[rule]]
kinds = ["down"]
rounding = "nearest"
"""


@pytest.fixture
def quick(
    exported: Exported, traced: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """A cache of the test's own, few goldens, and a trace that costs nothing; returns what was
    really done, stage by stage."""
    done: list[str] = []
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden").within(20)
    measure = preparing.ranges.record
    statistics = preparing.plan.statistics.record

    def tracing(*args: Any, **options: Any) -> Program:
        done.append("trace")
        return traced.copy()

    def measuring(*args: Any) -> dict[str, float]:
        done.append("ranges")
        return measure(*args)

    def counting(*args: Any) -> Any:
        done.append("statistics")
        return statistics(*args)

    monkeypatch.setattr(exporting, "obtain_goldens", lambda *args: goldens)
    monkeypatch.setattr("goldfold.exporter.frontend.trace.trace", tracing)
    monkeypatch.setattr(preparing.ranges, "record", measuring)
    monkeypatch.setattr(preparing.plan.statistics, "record", counting)
    texts = preparing.texts.calibration
    monkeypatch.setattr(
        preparing.texts, "calibration", lambda program, own=(): texts(program, own)[::20]
    )
    monkeypatch.setenv(FOLDER, str(tmp_path / "stages"))
    return done


class Notes(Silent):
    """A listener that keeps the notes of the stages."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def end(self, stage: str, seconds: float, note: str) -> None:
        self.said[stage] = note


def made(model: Path, out: Path, precisions: list[str], **options: Any) -> list[Result]:
    return export(model, ["onnxruntime"], precisions, out, locate=False, **options)


def bytes_of(out: Path) -> dict[str, bytes]:
    """All that the same inputs determine."""
    found = {}
    for folder in (path for path in out.iterdir() if path.is_dir()):
        name = folder.name.removesuffix(bundle.FAILED)
        for file in (*bundle.files_of(folder), bundle.MANIFEST):
            found[f"{name}/{file}"] = (folder / file).read_bytes()
    return found


def test_cached_export_gives_the_same_bytes_at_every_precision(
    tiny: Path, tmp_path: Path, quick: list[str]
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(RECIPE)
    work = ["trace", "ranges", "statistics", "statistics"]
    names = ["fp32", "fp16", str(recipe)]
    made(tiny, tmp_path / "without", names, cache=False)
    assert quick == work
    assert not (tmp_path / "stages").exists()
    made(tiny, tmp_path / "first", names)
    assert quick == work * 2
    notes = Notes()
    made(tiny, tmp_path / "second", names, listener=notes)
    assert quick == work * 2
    assert notes.said["trace"].endswith("; from the cache")
    assert notes.said["quantize"].endswith("; integers from the cache")
    # One precision alone, from what another's export has left, is what it is among others.
    made(tiny, tmp_path / "alone", [str(recipe)])
    assert quick == work * 2
    without = bytes_of(tmp_path / "without")
    assert len(without) > 20
    assert without == bytes_of(tmp_path / "first")
    assert without == bytes_of(tmp_path / "second")
    alone = {name: raw for name, raw in without.items() if name.startswith("onnxruntime-mine/")}
    assert alone == bytes_of(tmp_path / "alone")


def test_second_precision_does_not_trace_again(
    tiny: Path, tmp_path: Path, quick: list[str]
) -> None:
    made(tiny, tmp_path / "a", ["fp32"])
    made(tiny, tmp_path / "b", ["fp16"], max_length=100, dims=(32, 16))
    assert quick == ["trace", "ranges"]


def test_damaged_entry_is_made_again(tiny: Path, tmp_path: Path, quick: list[str]) -> None:
    made(tiny, tmp_path / "a", ["fp32"])
    (graph,) = (tmp_path / "stages").glob("trace-*/graph.onnx")
    raw = bytearray(graph.read_bytes())
    raw[1000] ^= 4
    graph.write_bytes(raw)
    notes = Notes()
    made(tiny, tmp_path / "b", ["fp32"], listener=notes)
    assert quick == ["trace", "trace"]
    assert "was damaged (graph.onnx has been changed)" in notes.said["trace"]
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    made(tiny, tmp_path / "c", ["fp32"])
    assert quick == ["trace", "trace"]


def test_another_name_shares_a_trace_and_keeps_its_name(
    tiny: Path, tmp_path: Path, quick: list[str]
) -> None:
    made(tiny, tmp_path / "a", ["fp32"])
    (result,) = made(tiny, tmp_path / "b", ["fp32"], name="other")
    assert quick == ["trace"]
    assert result.bundle.manifest.contract.model == "other"


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_changed_source_is_traced_again(
    tiny: Path, tmp_path: Path, traced: Program, file: str
) -> None:
    cache = Cache(tmp_path / "stages")
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    cached_stages.keep_trace(cache, open_model(model), traced)
    assert cached_stages.find_trace(cache, open_model(model)) is not None
    path = model / file
    if file == "model.safetensors":
        weights = load_file(path)
        next(iter(weights.values())).reshape(-1)[0] += 1
        save_file(weights, path, {"format": "pt"})
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), "further": 1}))
    assert cached_stages.find_trace(cache, open_model(model)) is None


def test_code_that_comes_with_a_model_is_not_trusted_to_do_the_same_again(
    tiny: Path, tmp_path: Path, quick: list[str]
) -> None:
    cache = Cache(tmp_path / "stages")
    source = replace(open_model(tiny), trusted=True)
    for _ in range(2):
        preparing.traced(source, Stages(), cache=cache)
    assert quick == ["trace", "trace"]
    assert not cache.entries()


# --- the traced program


def _same(a: Program, b: Program) -> None:
    assert cached_stages.content(a) == cached_stages.content(b)
    assert list(a.graph.initializers) == list(b.graph.initializers)
    assert ir.to_proto(a.model).metadata_props == ir.to_proto(b.model).metadata_props
    assert (a.contract, a.tokenizer, a.notes) == (b.contract, b.tokenizer, b.notes)
    for name, value in a.graph.initializers.items():
        one, other = value.const_value, b.graph.initializers[name].const_value
        assert one is not None and other is not None
        assert one.numpy().flags.c_contiguous == other.numpy().flags.c_contiguous, name


def test_program_comes_back_to_the_bit_and_its_weights_lie_where_they_lay(
    tiny: Path, tmp_path: Path, traced: Program
) -> None:
    program, cache, source = traced.copy(), Cache(tmp_path), open_model(tiny)
    program.notes = ["it was traced eagerly"]
    for value in list(program.graph.initializers.values()):  # a constant that no file holds
        if value.name == "transformer.layers.0.self_attn.q_proj.MatMul.1":
            assert value.const_value is not None
            own = add_constant(program.graph, "own", value.const_value.numpy() * 2)
            value.replace_all_uses_with(own)
    before = cached_stages.content(program)
    cached_stages.keep_trace(cache, source, program)
    assert cached_stages.content(program) == before
    found = cached_stages.find_trace(cache, source)
    assert found is not None
    _same(program, found)
    (entry,) = cache.entries()
    record = json.loads((entry.path / "record.json").read_text())
    stored = [name for name, lies in record["constants"].items() if not lies["file"]]
    assert stored == ["own"]
    assert (entry.path / "constants.bin").stat().st_size == 48 * 48 * 4
    table = found.graph.initializers["transformer.embed_tokens.weight"].const_value
    assert table is not None
    base = table.numpy()
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        assert base.base is not None
        base = base.base  # type: ignore[assignment]
    assert isinstance(base, np.memmap) and Path(str(base.filename)).name == "model.safetensors"


def test_half_weights_are_found_behind_the_floats_made_of_them(
    tiny: Path, tmp_path: Path, traced: Program
) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    program = traced.copy()
    halves = {
        name: array.astype(ml_dtypes.bfloat16)
        for name, array in load_file(model / "model.safetensors").items()
    }
    save_file(halves, model / "model.safetensors", {"format": "pt"})
    for value in program.graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        if tensor.dtype == ir.DataType.FLOAT and tensor.nbytes > 4096:
            array = tensor.numpy().astype(ml_dtypes.bfloat16).astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
    cache, source = Cache(tmp_path / "stages"), open_model(model, name=tiny.name)
    cached_stages.keep_trace(cache, source, program)
    found = cached_stages.find_trace(cache, source)
    assert found is not None
    _same(program, found)
    (constants,) = cache.folder.glob("trace-*/constants.bin")
    # The dense layers' files are f32 still, and no longer what this program holds.
    dense = [n for n in program.graph.initializers if n.startswith("stages.")]
    sizes = [program.graph.initializers[n].const_value.nbytes for n in dense]  # type: ignore
    assert constants.stat().st_size == sum(size for size in sizes if size > 4096)


def test_entry_of_another_form_is_damaged_and_no_traceback(
    tiny: Path, tmp_path: Path, traced: Program
) -> None:
    cache, source = Cache(tmp_path), open_model(tiny)

    def write(folder: Path) -> None:
        (folder / "record.json").write_text("{}")
        (folder / "graph.onnx").write_bytes(b"\xff\xff")

    cache.put("trace", cached_stages._trace_key(source), write)
    assert cached_stages.find_trace(cache, source) is None
    assert "it cannot be read" in cache.remarks()
    cached_stages.keep_trace(cache, source, traced)
    assert cached_stages.find_trace(cache, source) is not None


def test_content_tells_programs_apart(traced: Program) -> None:
    found = {cached_stages.content(traced)}
    one = traced.copy()
    name, value = next(iter(one.graph.initializers.items()))
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() + 1, name=name)
    found.add(cached_stages.content(one))
    other = traced.copy()
    node = next(node for node in other.graph if node.op_type == "goldfold.BandAttention"[9:])
    node.attributes["window"] = ir.AttrInt64("window", 3)
    found.add(cached_stages.content(other))
    assert len(found) == 3
    assert cached_stages.content(traced.copy()) in found


# --- what was measured


def test_arrays_come_back_in_order_with_their_shapes(traced: Program, tmp_path: Path) -> None:
    arrays = {
        "z": np.array(0.1), "a": np.array(np.inf), "m": np.arange(6, dtype=np.int8).reshape(2, 3),
        "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }  # fmt: skip
    cache, given = Cache(tmp_path), (traced, [[1, 2]], None, "ranges")
    assert cached_stages.measured(cache, *given, lambda: arrays) is arrays
    found = cached_stages.measured(cache, *given, dict)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    others = [(traced, [[1, 3]], None, "ranges"), (traced, [[1, 2]], None, "balance")]
    assert all(cached_stages.measured(cache, *other, dict) == {} for other in others)


# --- keys


def _closure(module: str) -> set[str]:
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [n for n in imports_of(name).all if n.startswith("goldfold.exporter.")]
    return found


@pytest.mark.parametrize(
    ("modules", "patterns"),
    [
        (
            (
                "goldfold.exporter.frontend.trace",
                "goldfold.exporter.frontend.trace.capture",
                "goldfold.exporter.frontend.simplify",
            ),
            cached_stages.TRACING,
        ),
        (
            ("goldfold.exporter.quantize.plan", "goldfold.exporter.evaluate.ranges"),
            cached_stages.MEASURING,
        ),
    ],
    ids=["trace", "measure"],
)
def test_keys_hold_all_code_that_decides(modules: tuple[str, ...], patterns: tuple) -> None:
    for module in set().union(*map(_closure, modules)) - {"goldfold.exporter"}:
        file = module.removeprefix("goldfold.exporter.").replace(".", "/")
        names = (f"{file}.py", f"{file}/__init__.py")
        assert any(fnmatch(name, pattern) for name in names for pattern in patterns), module


def test_key_changes_with_code_and_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cached_stages.code(cached_stages.TRACING) != cached_stages.code(cached_stages.MEASURING)
    said = cached_stages.surroundings()
    assert said["torch"] and said["onnx-ir"] and said["goldfold"]
    assert key(**said) != key(**{**said, "torch": "0"})

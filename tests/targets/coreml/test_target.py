"""The target: what may be asked, what is refused, the same bytes, the right bucket, and damage."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("coremltools")

from goldfold.exporter import registry
from goldfold.exporter.artifact.encoder import open_encoder
from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import ArtifactError, RewriteError, TargetError, UsageError
from goldfold.exporter.frontend import packaged
from goldfold.exporter.ir.program import MODULE
from goldfold.golden.store import Goldens
from goldfold.targets.coreml import run
from goldfold.targets.coreml.build import Place
from goldfold.targets.coreml.debug import first_drift
from goldfold.targets.coreml.evaluate import Evaluator
from goldfold.targets.coreml.lower import vendor
from goldfold.targets.coreml.lower.lowering import spelled
from goldfold.targets.coreml.options import CoreMlOptions
from goldfold.targets.coreml.package import read
from tests.exporter import small
from tests.targets.coreml.mil import KINDS, package_of

TARGET = registry.target("coreml")


def build(folder: Path, options: CoreMlOptions | None = None, program=None):
    program = program or small.program()
    settled = TARGET.settle("fp32", options or CoreMlOptions(), program.contract.max_length)
    folder.mkdir(parents=True, exist_ok=True)
    said = TARGET.build(program, "fp32", folder, settled)
    return TARGET.narrow(program.contract, settled), said


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small program's package, buckets 4 and 16. Copy it before damaging it."""
    folder = tmp_path_factory.mktemp("small")
    build(folder, CoreMlOptions(buckets=(4, 16)))
    return folder / "model.mlpackage"


def copy(package: Path, to: Path) -> Path:
    return Path(shutil.copytree(package, to / package.name))


# --- what may be asked


@pytest.mark.parametrize(
    ("asked", "length", "buckets", "system"),
    [
        ({}, 2048, (128, 512), "iOS18"),
        ({}, 256, (128, 256), "iOS18"),
        ({}, 100, (100,), "iOS18"),
        ({"buckets": (64, 8, 64)}, 100, (8, 64), "iOS18"),
        ({"minimum_target": "iOS17"}, 2048, (512,), "iOS17"),
        ({"minimum_target": "macos13", "buckets": (8,)}, 100, (8,), "iOS16"),
        ({"flexible": True, "minimum_target": "macOS15"}, 100, (), "iOS18"),
    ],
)
def test_defaults(asked: dict, length: int, buckets: tuple, system: str) -> None:
    settled = TARGET.settle("fp16", CoreMlOptions(**asked), length)
    assert (settled.buckets, settled.minimum_target) == (buckets, system)
    most = max(buckets) if buckets else length
    contract = small.program().contract.with_(max_length=length)
    made = TARGET.narrow(contract.with_(lengths={"query": 1, "document": most}), settled)
    assert made.max_length == most
    # A length that is no shorter than the longest text is no length of its own.
    assert made.lengths == {"query": 1, **({} if buckets else {"document": most})}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"buckets": (8, 300)}, "300 tokens is longer than the model takes .256"),
        ({"buckets": (0,)}, "holds nothing"),
        ({"buckets": (8,), "flexible": True}, "exclude each other"),
        ({"minimum_target": "iOS9"}, "unknown minimum target 'iOS9'; known: iOS16"),
        ({"buckets": (8, 16), "minimum_target": "iOS17"}, "need --minimum-target iOS18"),
    ],
)
def test_refused_before_tracing(asked: dict, reason: str) -> None:
    with pytest.raises(TargetError, match=reason):
        TARGET.settle("fp16", CoreMlOptions(**asked), 256)


def test_missing_or_without_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vendor, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"not installed.*'goldfold\[coreml\]'"):
        registry.offered("coreml", "fp32")

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(vendor, "find_spec", lambda name: Spec)
    monkeypatch.setattr(vendor.platform, "machine", lambda: "aarch64")
    with pytest.raises(TargetError, match=r"no compiled libraries for .* aarch64 .*x86-64 Linux"):
        registry.offered("coreml", "fp32")


def test_an_op_that_a_system_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from goldfold.targets.coreml.lower import table

    row = lambda emit, node: emit(  # noqa: E731
        "scaled_dot_product_attention", query=emit.var(0), key=emit.var(1), value=emit.var(2)
    )
    monkeypatch.setitem(table.ROWS, "goldfold.BandAttention", row)
    program = small.program()
    places = {value.name or "": Place((1, 4), KINDS["int64"]) for value in program.graph.inputs}
    with pytest.raises(TargetError, match=r"encoder.a.*scaled_dot.*iOS17.*--minimum-target iOS18"):
        package_of(program, places, Path("unused"), "iOS17")


# --- building


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    built = []
    for name in ("one", "two"):
        build(tmp_path / name, CoreMlOptions(buckets=(4, 16)))
        built.append(contents(tmp_path / name))
    assert built[0] == built[1]
    assert len(built[0]) == 5  # the package's three, the Swift loader and its Package.swift


def test_functions_share_their_weights(package: Path, tmp_path: Path) -> None:
    opened = read(package)
    assert list(opened.functions) == ["tokens_16", "tokens_4"]
    assert opened.default == "tokens_16"
    tables = [
        next(c for c in f.constants.values() if getattr(c, "shape", None) == (30, 40))
        for f in opened.functions.values()
    ]
    assert np.shares_memory(*tables)
    build(tmp_path, CoreMlOptions(buckets=(16,)))
    sizes = [(p / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
             for p in (package, tmp_path / "model.mlpackage")]  # fmt: skip
    weights = small.program().parameters() * 4
    assert sizes[0] - sizes[1] < weights / 4  # the second bucket brings its band and no weights


def test_interface_is_int32_in_float32_out(package: Path) -> None:
    spec = vendor.coremltools().utils.load_spec(str(package))
    assert spec.specificationVersion == 9
    assert spec.description.defaultFunctionName == "tokens_16"
    int32, float32 = 131104, 65568  # ArrayFeatureType's numbers
    for function in spec.description.functions:
        width = int(function.name.removeprefix("tokens_"))
        for value in function.input:
            assert list(value.type.multiArrayType.shape) == [1, width]
            assert value.type.multiArrayType.dataType == int32
        assert [value.name for value in function.output] == ["sentence_embedding"]
        assert function.output[0].type.multiArrayType.dataType == float32


def test_names_survive(package: Path) -> None:
    names = {n for op in read(package).function().operations for n, _ in op.outputs}
    kept = [value.name or "" for node in small.program().graph for value in node.outputs]
    # What is known while building is a constant, and a bias is written with its product.
    assert {spelled(name) for name in kept if name in ("x", "q", "a", "h", "l", "t", "s")} <= names


def test_coremltools_reads_it(package: Path) -> None:
    ct = vendor.coremltools()
    model = ct.models.MLModel(str(package), skip_model_load=True, function_name="tokens_4")
    assert len(model.get_spec().mlProgram.functions) == 2


@pytest.mark.parametrize(("op", "domain"), [("Shimmer", "acme"), ("Glimmer", "")])
def test_unknown_op_is_refused_by_name(op: str, domain: str, tmp_path: Path) -> None:
    program = small.program()
    producer = program.graph.outputs[0].producer()
    assert producer is not None
    foreign = ir.node(op, [producer.inputs[0]], domain=domain, name="strange_node")
    foreign.metadata_props[MODULE] = "2.linear"
    program.graph.insert_before(producer, foreign)
    producer.replace_input_with(0, foreign.outputs[0])
    with pytest.raises(RewriteError) as caught:
        build(tmp_path, program=program)
    for culprit in ("coreml", op, "strange_node", "2.linear"):
        assert culprit in str(caught.value)
    assert not contents(tmp_path)


# --- running


def test_on_a_mac_core_ml_itself_runs(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wiring only: which class is asked for which function. No Mac was at hand."""
    asked: list[str | None] = []

    class Model:
        def __init__(self, path: str, function_name: str | None = None) -> None:
            asked.append(function_name)

        def predict(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            assert {array.dtype for array in feeds.values()} == {np.dtype(np.int32)}
            return {"sentence_embedding": np.full((1, small.DIM), 2.0, np.float32)}

    monkeypatch.setattr(vendor.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(vendor.coremltools().models, "MLModel", Model)
    assert TARGET.cannot_run() is None
    runs = TARGET.load(package.parent, small.program().contract, "fp32", None)
    ids = np.ones((1, 3), dtype=np.int64)
    assert (runs(ids, ids) == 2).all()
    assert asked == ["tokens_4"]


def test_the_bucket_follows_the_width_of_the_batch(package: Path, monkeypatch) -> None:
    program = small.program()
    used: list[str] = []
    opened = run._evaluator

    def spy(opened_package, name, widened):
        used.append(name)
        return opened(opened_package, name, widened)

    monkeypatch.setattr(run, "_evaluator", spy)
    runs = TARGET.load(package.parent, program.contract, "fp32", 1)
    ids = np.array([[3, 4, 5], [6, 7, 8]])
    short = runs(ids, np.ones_like(ids))
    padded = np.zeros((2, 9), dtype=np.int64)
    padded[:, :3] = ids
    mask = (np.arange(9) < 3).astype(np.int64)[None].repeat(2, 0)
    runs(padded, mask)
    assert used == ["tokens_4", "tokens_16"]
    assert short.shape == (2, program.contract.dim)
    with pytest.raises(ArtifactError, match="17 tokens; the longest function takes 16"):
        runs(np.ones((1, 17), int), np.ones((1, 17), int))


def dozen(goldens: Goldens) -> Goldens:
    """A dozen texts a bucket: those that only the longer one holds, the shortest, and some."""
    lengths = [len(case.token_ids) for case in goldens.cases]
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    rows = sorted({*order[:4], *order[::9], *order[-5:]})
    kept = tuple(goldens.cases[row] for row in rows)
    return replace(goldens, cases=kept, embeddings=goldens.embeddings[rows])


def test_real_weights_pass_their_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MiniLM, exported whole: verified alone and padded, carried, opened, used."""
    pytest.importorskip(packaged.MINILM.package)
    obtain = exporting.obtain_goldens
    monkeypatch.setattr(exporting, "obtain_goldens", lambda *given: dozen(obtain(*given)))
    results = exporting.export(
        packaged.locate(packaged.MINILM), ["coreml"], ["fp32", "fp16"], tmp_path / "out",
        name=packaged.MINILM.name, build=CoreMlOptions(buckets=(128, 200)),
    )  # fmt: skip
    for result, limit in zip(results, (1e-6, 1e-5), strict=True):
        assert result.passed, result.verdict.sentences
        assert max(result.measurement.worst, result.measurement.worst_padded) <= limit
    result = results[1]
    manifest = result.bundle.manifest
    assert manifest.contract.max_length == 200
    assert any("Neural Engine's arithmetic" in sentence for sentence in manifest.built)
    assert manifest.versions["coremltools"]
    if not vendor.native():
        assert result.bundle.verdict is not None
        assert "evaluator of MIL programs" in str(result.bundle.verdict.machine["measured"])
    encoder = open_encoder(result.bundle, threads=1)
    rows = encoder.embed(["The train leaves at noon.", "a much longer text " * 90])
    assert rows.shape == (2, manifest.contract.dim)
    swift = (result.path / "GoldfoldEncoder.swift").read_text("utf-8")
    assert '(128, "tokens_128"), (200, "tokens_200")' in swift
    assert "@" not in swift
    assert "(before, behind, cutsBeginning) = (1, 1, false)" in swift


def test_census_counts_operations(package: Path) -> None:
    counts = TARGET.census(package.parent)
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert counts["linear"] == 2


# --- looking inside


def test_drift_names_the_first_wrong_value(package: Path) -> None:
    evaluator = Evaluator(read(package), "tokens_4")
    feeds = {"input_ids": np.array([[3, 4, 5, 0]]), "attention_mask": np.array([[1, 1, 1, 0]])}
    found, compared = first_drift(evaluator, small.program().model, feeds)
    assert found is None
    assert compared >= 8
    other = small.program()
    node = next(node for node in other.graph if node.op_type == "Tanh")
    node.op_type = "Sigmoid"
    found, _ = first_drift(evaluator, other.model, feeds)
    assert found is not None
    assert (found.value, found.op) == ("t", "tanh")


def test_declared_types_are_checked(package: Path, tmp_path: Path) -> None:
    damaged = copy(package, tmp_path)
    model = damaged / "Data/com.apple.CoreML/model.mlmodel"
    spec = vendor.coremltools().proto.Model_pb2.Model()
    spec.ParseFromString(model.read_bytes())
    function = spec.mlProgram.functions["tokens_4"]
    block = function.block_specializations[function.opset]
    operation = next(o for o in block.operations if o.type == "tanh")
    operation.outputs[0].type.tensorType.dimensions[1].constant.size = 9
    model.write_bytes(spec.SerializeToString())
    feeds = {name: np.ones((1, 4), int) for name in ("input_ids", "attention_mask")}
    with pytest.raises(ArtifactError, match=r"tanh at t declares t as fp32\[1, 9, 40\]"):
        Evaluator(read(damaged), "tokens_4")(feeds)


# --- damage

DAMAGE = {
    "no-manifest": ("no .mlpackage", lambda p: (p / "Manifest.json").unlink()),
    "bad-manifest": ("names no model", lambda p: (p / "Manifest.json").write_text("{}")),
    "no-model": ("cannot be read", lambda p: next(p.rglob("*.mlmodel")).unlink()),
    "bad-model": ("damaged", lambda p: next(p.rglob("*.mlmodel")).write_bytes(b"\xff" * 99)),
    "no-program": ("not an ML program", lambda p: next(p.rglob("*.mlmodel")).write_bytes(b"")),
    "no-weights": ("cannot be read", lambda p: next(p.rglob("weight.bin")).unlink()),
    "cut-weights": (
        "is damaged", lambda p: next(p.rglob("weight.bin")).write_bytes(b"\x00" * 512)
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_line(what: str, package: Path, tmp_path: Path) -> None:
    reason, damage = DAMAGE[what]
    damaged = copy(package, tmp_path)
    damage(damaged)
    with pytest.raises(ArtifactError, match=reason) as caught:
        TARGET.load(tmp_path, small.program().contract, "fp32", 1)
    assert len(str(caught.value).splitlines()) == 1
    assert "model.mlpackage" in str(caught.value)


def test_a_manifest_cannot_point_outside(package: Path, tmp_path: Path) -> None:
    damaged = copy(package, tmp_path)
    manifest = json.loads((damaged / "Manifest.json").read_text())
    root = manifest["rootModelIdentifier"]
    manifest["itemInfoEntries"][root]["path"] = "../../elsewhere"
    (damaged / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="points outside"):
        read(damaged)


def test_wrong_inputs_and_functions_are_named(package: Path) -> None:
    opened = read(package)
    with pytest.raises(UsageError, match="no function 'main'; it has: tokens_16, tokens_4"):
        opened.function("main")
    with pytest.raises(UsageError, match=r"input_ids is int64\[1, 3\]; it takes int32\[1, 16\]"):
        Evaluator(opened)({n: np.ones((1, 3), int) for n in ("input_ids", "attention_mask")})
    with pytest.raises(UsageError, match="no precision 'fp8'"):
        Evaluator(opened, precision="fp8")


def test_unknown_operation_is_named(package: Path, tmp_path: Path) -> None:
    damaged = copy(package, tmp_path)
    model = next(damaged.rglob("*.mlmodel"))
    raw = model.read_bytes()
    model.write_bytes(raw.replace(b"\x04tanh", b"\x04tann"))
    with pytest.raises(ArtifactError, match=r"MIL's tann \(at t\) is not known"):
        Evaluator(read(damaged))

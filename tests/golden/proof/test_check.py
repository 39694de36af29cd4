"""A right artifact is proved in every format and precision, and a wrong number in it is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import kinds
from goldfold.golden.proof.check import check
from tests.golden.proof import proof_toys as toys

FORMS = ("onnx", "openvino", "mlpackage")
KINDS = ("float32", "float16", "int8", "int4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("model")
    return folder, toys.source(folder)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_right_artifacts_are_proved(model, tmp_path: Path, form: str, kind: str) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, kind)
    artifact = toys.write(form, tmp_path, constants)
    done: list[tuple[int, int]] = []
    proof = check(artifact, derivations, folder, lambda *now: done.append(now))
    assert proof.ok and not proof.small, proof
    assert proof.covered == proof.stored == sum(len(toys.raw(a)) for a in constants.values())
    assert done == sorted(done) and done[-1] == (proof.stored, proof.stored)
    how = {one.name: one.how for one in proof.constants}
    searched = "bounded" if kind.startswith("int") else "derived"
    assert how.pop("gain") == how.pop("t") == "derived" and how.pop("m") == searched
    assert set(how.values()) <= {"digest"}
    without = check(artifact, derivations, None)
    assert without.ok and {one.how for one in without.constants} == {"digest"}
    assert without.structure == proof.structure


def zeroed_head(a: np.ndarray) -> None:
    a[:, 8:16] = 0


def swapped_rows(a: np.ndarray) -> None:
    a[[3, 11]] = a[[11, 3]]


def swapped_columns(a: np.ndarray) -> None:
    a[:, [3, 11]] = a[:, [11, 3]]


def shifted_block(a: np.ndarray) -> None:
    a[4:12] = np.roll(a[4:12], 1, axis=0)


def last_bit(a: np.ndarray) -> None:
    if a.dtype == ml_dtypes.int4:
        a[5, 7] = (int(a[5, 7]) ^ 1) if int(a[5, 7]) >= 0 else -8 + ((int(a[5, 7]) + 8) ^ 1)
    else:
        a.reshape(-1).view(f"u{a.itemsize}")[123] ^= 1


def negated(a: np.ndarray) -> None:
    a[7] = -np.clip(a[7], -7, 7) if a.dtype == ml_dtypes.int4 else -a[7]


MUTANTS: tuple[Callable[[np.ndarray], None], ...] = (
    zeroed_head, swapped_rows, swapped_columns, shifted_block, last_bit, negated,
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["m", "t"])
@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_wrong_numbers_are_found(
    model, tmp_path: Path, form: str, kind: str, name: str, mutate: Callable
) -> None:
    """Also in an artifact that was wrong when its digests were taken: `steps` holds the rest."""
    folder, tensors = model
    constants, derivations = toys.program(tensors, kind)
    before = toys.digest(constants[name])
    mutate(constants[name])
    after = toys.digest(constants[name])
    assert before != after
    artifact = toys.write(form, tmp_path, constants)
    for text, source in ((derivations, folder), (derivations, None)):
        proof = check(artifact, text, source)
        assert {fault.constant for fault in proof.faults} == {name}
        assert "\n" not in proof.faults[0].sentence
        assert [one.name for one in proof.constants if not one.ok] == [name]
    sealed = check(artifact, derivations.replace(before, after), folder)
    if name == "m" and kind.startswith("int") and mutate is last_bit:
        return  # a searched integer may be its neighbour, within what is stated
    assert {fault.constant for fault in sealed.faults} == {name}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("name", ["m.scale", "t.scale"])
def test_scale_that_is_off_by_one_unit_is_found(
    model, tmp_path: Path, form: str, kind: str, name: str
) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, kind)
    constants[name].reshape(-1)[3] = np.nextafter(constants[name].reshape(-1)[3], np.float32(9))
    for source in (folder, None):
        proof = check(toys.write(form, tmp_path, constants), derivations, source)
        assert name in {fault.constant for fault in proof.faults}


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_scale_that_was_wrong_from_the_start_is_found(model, tmp_path: Path, kind: str) -> None:
    """Its integers are the nearest ones of it, and its digest is its own: the norm is not."""
    folder, tensors = model
    table = tensors["table"]
    bits, block = (8, 0) if kind == "int8" else (4, toys.BLOCK)
    scale = toys.scales(table, bits, block)
    scale[5] /= 8
    numbers = toys.nearest(table, scale, bits, block)
    picked = f'chosen("float32", {scale.shape!r}, "{toys.digest(scale)}")'
    derivations = toys.text(
        toys.line("t", numbers, f"nearest({toys.tensor('table')}, {picked}, {bits}, {block})"),
        toys.line("s", scale, picked),
    )
    artifact = toys.write("onnx", tmp_path, {"t": numbers, "s": scale})
    proof = check(artifact, derivations, folder)
    assert [fault.constant for fault in proof.faults] == ["t"]
    assert proof.faults[0].sentence.startswith("row 5 is off by ")


def test_faults_say_what_where_and_by_how_much(model, tmp_path: Path) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, "float32")
    constants["t"][3, 9] = 2
    proof = check(toys.write("onnx", tmp_path, constants), derivations, folder)
    expected = tensors["table"][3, 9]
    assert [(fault.constant, fault.sentence) for fault in proof.faults] == [
        ("t", f"row 3, column 9 is 2.0 and follows as {expected} (1 of 1,536 numbers differ)")
    ]


# --- what a format makes of a constant


def renamed(constants: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"Constant.{n}": array for n, array in enumerate(constants.values())}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mutate", [None, swapped_rows, last_bit])
def test_constants_without_their_names_are_found(model, tmp_path: Path, kind, mutate) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, kind)
    if mutate is not None:
        mutate(constants["t"])
    proof = check(toys.write("openvino", tmp_path, renamed(constants)), derivations, folder)
    assert {fault.constant for fault in proof.faults} == (set() if mutate is None else {"t"})
    assert not proof.uncovered


def test_constants_may_be_transposed_and_of_another_kind(model, tmp_path: Path) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, "float32")
    other = {
        "a": constants["gain"].reshape(1, 64, 1),
        "b": np.ascontiguousarray(constants["m"].T),
        "c": constants["t"].astype(np.float16),
    }
    proof = check(toys.write("openvino", tmp_path, other), derivations, folder)
    assert proof.ok, proof.faults
    other["c"][2, 2] += np.float16(0.5)
    faults = check(toys.write("openvino", tmp_path, other), derivations, folder).faults
    assert [fault.constant for fault in faults] == ["t"]


def test_exchanged_names_are_a_fault(model, tmp_path: Path) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, "float32")
    derivations += "\n" + toys.line("w", tensors["w"], toys.tensor("w"))
    constants["w"], constants["t"] = constants["t"], tensors["w"]
    proof = check(toys.write("onnx", tmp_path, constants), derivations, folder)
    assert {fault.constant for fault in proof.faults} == {"w", "t"}


def test_scale_may_be_narrower_where_that_is_exact(model, tmp_path: Path) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, "int8")
    constants["t.scale"] = constants["t.scale"].astype(np.float16)
    assert check(toys.write("onnx", tmp_path, constants), derivations, folder).ok


@pytest.mark.parametrize("bits", [5, 6, 7])
@pytest.mark.parametrize("how", ["nearest", "steps"])
def test_packed_tables_are_proved(model, tmp_path: Path, bits: int, how: str) -> None:
    folder, tensors = model
    scale = toys.scales(tensors["table"], bits, 0)
    numbers = toys.nearest(tensors["table"], scale, bits, 0)
    packed, half = kinds.pack(numbers, bits), scale.reshape(-1, 1, 1).astype(np.float16)
    picked = f'chosen("float32", (24, 1), "{toys.digest(scale)}")'
    stated = "" if how == "nearest" else ", 0.51, 0.4"
    inner = f"{how}({toys.tensor('table')}, {picked}, {bits}, 0{stated})"
    derivations = toys.text(
        toys.line("p", packed, f"packed({inner}, {bits})"),
        toys.line("s", half, f'cast(reshape({picked}, 24, 1, 1), "float16")'),
    )
    proof = check(toys.write("onnx", tmp_path, {"p": packed, "s": half}), derivations, folder)
    assert proof.ok, proof.faults
    packed[3] = packed[4]
    proof = check(toys.write("onnx", tmp_path, {"p": packed, "s": half}), derivations, folder)
    assert [fault.constant for fault in proof.faults] == ["p"]


@pytest.mark.parametrize("shift", [0, 8])
def test_nibbles_are_proved(model, tmp_path: Path, shift: int) -> None:
    folder, tensors = model
    scale = toys.scales(tensors["table"], 4, 16)
    numbers = toys.nearest(tensors["table"], scale, 4, 16)
    held = np.frombuffer(toys.raw(numbers.astype(ml_dtypes.int4)), np.uint8).reshape(24, 32)
    held = held ^ (0x88 if shift else 0)
    picked = f'chosen("float32", (24, 4), "{toys.digest(scale)}")'
    inner = f"steps({toys.tensor('table')}, {picked}, 4, 16, 0.51, 0.4)"
    inner = f'add({inner}, literal("int64", (), (8,)))' if shift else inner
    derivations = toys.text(
        toys.line("p", held, f"nibbles({inner})"), toys.line("s", scale, picked)
    )
    assert check(toys.write("onnx", tmp_path, {"p": held, "s": scale}), derivations, folder).ok
    held[2, 3] ^= 0x40
    faults = check(
        toys.write("onnx", tmp_path, {"p": held, "s": scale}), derivations, folder
    ).faults
    assert [fault.constant for fault in faults] == ["p"]


def test_sums_and_cosines_are_within_their_errors(model, tmp_path: Path) -> None:
    folder, tensors = model
    product = (tensors["w"].astype(float) @ tensors["table"].T.astype(float)).astype(np.float32)
    angles = np.outer(np.arange(50, dtype=np.float32), tensors["gain"]).astype(np.float32)
    w, t = toys.tensor("w"), toys.tensor("table")
    line = 'reshape(arange("float32", 0, 50, 1), 50, 1)'
    cosines = np.cos(angles)
    derivations = toys.text(
        toys.line("p", product, f'cast(matmul({w}, transpose({t}, 1, 0)), "float32")'),
        toys.line(
            "c", cosines,
            f'cast(cosine(cast(mul({line}, {toys.tensor("gain")}), "float32")), "float32")',
        ),
    )  # fmt: skip
    held = {"p": product, "c": cosines}
    assert check(toys.write("onnx", tmp_path, held), derivations, folder).ok
    for name, by in (("p", 2), ("c", 40)):
        wrong = {key: array.copy() for key, array in held.items()}
        bits = wrong[name].reshape(-1).view(np.uint32)
        bits[np.argmax(np.abs(wrong[name]))] += by
        faults = check(toys.write("onnx", tmp_path, wrong), derivations, folder).faults
        assert [fault.constant for fault in faults] == [name]


def test_derivation_that_proves_nothing_is_a_fault(model, tmp_path: Path) -> None:
    """A quotient by a difference that may be zero may be anything."""
    folder, _ = model
    anything = np.full((2, 2), 77, np.float32)
    zero = 'sub(exp(full("float32", (2, 2), 1)), exp(full("float32", (2, 2), 1)))'
    derivations = toys.text(
        toys.line("x", anything, f'cast(div(full("float32", (2, 2), 1), {zero}), "float32")')
    )
    proof = check(toys.write("onnx", tmp_path, {"x": anything}), derivations, folder)
    assert [fault.constant for fault in proof.faults] == ["x"]


# --- what follows from no line


def test_what_follows_from_no_line_is_listed(model, tmp_path: Path) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, "float32")
    constants |= {
        "axes": np.array([1, 2]), "epsilon": np.float32(1e-6).reshape(()), "ids": np.arange(65),
    }  # fmt: skip
    proof = check(toys.write("openvino", tmp_path, constants), derivations, folder)
    assert not proof.faults and not proof.ok
    assert [one.name for one in proof.uncovered] == ["epsilon", "ids"]
    assert [one.name for one in proof.small] == ["axes"]
    assert proof.stored - proof.covered == 16 + 4 + 520


def test_copies_of_a_constant_follow_from_its_line(model, tmp_path: Path) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, "float32")
    constants["copy"] = constants["t"]
    assert check(toys.write("openvino", tmp_path, constants), derivations, folder).ok


def test_copy_in_the_place_of_another_is_a_fault(model, tmp_path: Path) -> None:
    """Where a format may leave constants out, as a package may, a weight is none of those."""
    folder, tensors = model
    w, t = tensors["w"], tensors["table"]
    part = toys.line("part", t[:7], f"slice({toys.tensor('table')}, 0, 0, 7)")
    derivations = toys.text(
        toys.line("a.w", w, toys.tensor("w")), toys.line("a.t", t, toys.tensor("table"))
    )
    right = {"x": w, "y": t}
    assert check(toys.write("mlpackage", tmp_path, right), derivations, folder).ok
    assert check(toys.write("mlpackage", tmp_path, {"x": w, "z": t[:7]}),
                 f"{derivations}\n{part}", folder).ok  # fmt: skip
    for source in (folder, None):
        proof = check(toys.write("mlpackage", tmp_path, {"x": w, "y": w}), derivations, source)
        assert [fault.constant for fault in proof.faults] == ["a.t"]


def test_bytes_of_no_constant_are_listed(model, tmp_path: Path) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, "float32")
    artifact = toys.write("openvino", tmp_path, constants)
    with (artifact / "openvino_model.bin").open("ab") as file:
        file.write(b"\0" * 100 + b"\1")
    proof = check(artifact, derivations, folder)
    assert [(one.kind, one.size) for one in proof.uncovered] == [("bytes", 101)]


def test_lost_constants_are_faults_but_shapes_are_not(model, tmp_path: Path) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, "float32")
    derivations += "\n" + toys.line("axes", np.array([1]), 'literal("int64", (1,), (1,))')
    del constants["t"]
    proof = check(toys.write("onnx", tmp_path, constants), derivations, folder)
    assert [fault.constant for fault in proof.faults] == ["t"]
    assert {one.name: one.how for one in proof.constants}["axes"] == "absent"


def test_stated_digest_must_be_that_of_the_numbers(model, tmp_path: Path) -> None:
    """Else the check without the model, which has digests alone, would look for other numbers."""
    folder, tensors = model
    constants, derivations = toys.program(tensors, "float32")
    derivations = derivations.replace(toys.digest(constants["t"]), "0" * 64)
    proof = check(toys.write("onnx", tmp_path, constants), derivations, folder)
    assert "stated digest does not" in proof.faults[0].sentence


# --- one line for what cannot be checked


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("goldfold.derivations/1", "goldfold.derivations/2", "begin with 'goldfold.derivations/1'"),
        ('tensor("model.safetensors", "gain")', 'tensor("model.safetensors", "no")', "no tensor"),
        ("cast(", "recast(", "'recast' is an expression of a newer version of goldfold"),
        ("mul(", "cast(", "cast is called with arguments of a newer version"),
        ("%1 = ", "%2 = ", "%1 is used and not defined before"),
        ("[64,24]", "[64,25]", "gives [64, 24] and states [64, 25]"),
        ('"m" float32', '"m" float31', "'float31' is no kind"),
        ('"m" float32', '"m float32', "line 4"),
        ('"m" float32', '"gain" float32', "defined twice"),
        ("transpose(%1, 1, 0)", "transpose(%1, 1, 0", "line 4"),
        ("transpose(%1, 1, 0)", "(1, 2)", "is called with arguments"),
        ("%1, 1, 0", "%1, 1, $", "is no part of an expression"),
    ],
)
def test_bad_derivations_are_one_line(model, tmp_path: Path, old: str, new: str, says: str) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, "float32")
    assert old in derivations
    with pytest.raises(GoldenError) as caught:
        check(toys.write("onnx", tmp_path, constants), derivations.replace(old, new, 1), folder)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_deep_derivations_are_one_line() -> None:
    deep = "neg(" * 5000 + toys.tensor("w") + ")" * 5000
    chain = [f"%{n} = neg(%{n - 1})" for n in range(2, 200)]
    for lines in (
        [f'"x" float32 [1] {"0" * 64} = {deep}'],
        [f"%1 = {toys.tensor('w')}", *chain],
        [f'"x" float32 [1] {"0" * 64} = take(%1, 0, {"(" * 3000}'],
    ):
        with pytest.raises(GoldenError, match="line"):
            check(Path(), toys.text(*lines), None)


def test_artifact_of_no_known_format_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(GoldenError, match="holds none of model"):
        check(tmp_path, toys.text(), None)


@pytest.mark.parametrize("when", ["cut", "replaced", "gone"])
def test_source_that_changes_is_one_line(tmp_path: Path, when: str) -> None:
    """Cut: never a signal. Replaced by the same: a file that was not there when the check began."""
    tensors = toys.source(tmp_path / "model")
    constants, derivations = toys.program(tensors, "float32")
    artifact, file = toys.write("onnx", tmp_path / "a", constants), tmp_path / "model" / toys.NAME

    def interfere(done: int, of: int) -> None:
        raw = file.read_bytes() if file.exists() else b""
        file.unlink(missing_ok=True)
        if when != "gone":
            file.write_bytes(raw[: -len(raw) // 2] if when == "cut" else raw)

    with pytest.raises(GoldenError, match="changed while it was read; do it again"):
        check(artifact, derivations, tmp_path / "model", interfere)


def test_artifact_that_is_cut_meanwhile_is_one_line(model, tmp_path: Path) -> None:
    folder, tensors = model
    constants, derivations = toys.program(tensors, "float32")
    artifact = toys.write("onnx", tmp_path, constants)

    def cut(done: int, of: int) -> None:
        with (artifact / "model.onnx.data").open("r+b") as file:
            file.truncate(100)

    with pytest.raises(GoldenError, match=r"(was cut|changed) while it was read"):
        check(artifact, derivations, folder, cut)

"""A little of `python -m tests.torture`, in this process: what it found, and that it finds it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goldfold import load
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.errors import ArtifactError, GoldfoldError, OutputError
from goldfold.exporter.ir.onnx_file import write
from goldfold.exporter.verification.verifying import verify
from goldfold.golden import make
from goldfold.golden.errors import GoldenError
from tests.conftest import Exported
from tests.torture.tortures import damage, damaging, environment, ground, headers, inputs, strangers

SHAPE = inputs.TINY


def spoilt(source: Path, to: Path, key: str, way: damage.Way, seed: int = 1) -> Path:
    folder = Path(shutil.copytree(source, to / "in" / source.name))
    (to / "victim").mkdir()
    (to / "victim" / "secret.bin").write_bytes(b"secret")
    way.spoil(folder, key, np.random.default_rng(seed))
    return folder


def one_line(error: pytest.ExceptionInfo[Exception], *culprits: object) -> None:
    text = str(error.value)
    assert len(text.splitlines()) == 1, text
    for culprit in culprits:
        assert str(culprit) in text


# --- drawn inputs


@pytest.mark.parametrize("target", ground.TARGETS)
def test_texts_are_in_a_batch_what_they_are_alone(target: str, artifacts: dict[str, Path]) -> None:
    lengths = inputs.draw_lengths(np.random.default_rng(3), 60, 600)
    found = inputs.torture(artifacts[target], SHAPE, lengths, seed=3)
    assert found.inputs == 60 and found.repeated > 0
    assert found.broken == 0, found
    assert 0 < found.nearest < 1


def test_what_leaks_from_padding_breaks_the_promise(
    artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Encoder.run

    def leaks(self: Encoder, ids: np.ndarray, mask: np.ndarray, *how: Any):
        return run(self, ids, mask, *how) + np.float32(1e-4) * (1 - mask).mean(1)[:, None]

    monkeypatch.setattr(Encoder, "run", leaks)
    lengths = np.array([3, 40, 5, 200, 9])
    assert inputs.torture(artifacts["onnxruntime"], SHAPE, lengths, seed=1).beyond > 0


def test_lengths_reach_from_one_token_to_the_most() -> None:
    rng = np.random.default_rng(1)
    lengths = inputs.draw_lengths(rng, 10_000, 2048)
    assert lengths.min() == 1 and lengths.max() > 2000
    strata = inputs.draw_strata(rng, 200, 2048)
    assert len(strata) == 200 and strata.min() == 1 and strata.max() == 2048


# --- damaged artifacts: every way that no digest was corrected for


def ways() -> list[tuple[str, damage.Way]]:
    found = {(harm.key, harm.way.name): harm.way for harm in damaging.draw(2000, 0)
             if harm.subject == "onnxruntime" and "resealed" not in harm.way.name
             and not harm.way.name.startswith("1 GiB")}  # fmt: skip
    return [(key, way) for (key, _), way in sorted(found.items()) if key != "verdict.json"]


def test_drawn_damage_holds_every_way() -> None:
    drawn = {harm.way.name.removesuffix(", resealed") for harm in damaging.draw(300, 0)}
    pools = (damage.ANY, damage.JSON, headers.SAFETENSORS, damage.MODULES, damage.MANIFEST,
             headers.NPY, headers.ONNX, headers.XML, damage.VERDICT, strangers.MODEL,
             strangers.ARTIFACT, strangers.ONNX)  # fmt: skip
    assert drawn == {way.name for pool in pools for way in pool}
    assert [str(harm) for harm in damaging.draw(40, 5)] == [str(h) for h in damaging.draw(40, 5)]


@pytest.mark.parametrize(("key", "way"), ways(), ids=lambda value: getattr(value, "name", value))
def test_damaged_artifact_is_refused_in_one_line(
    key: str, way: damage.Way, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    folder = spoilt(artifacts["onnxruntime"], tmp_path, key, way)
    try:
        encoder = load(folder, threads=1)
    except GoldfoldError as error:
        assert len(str(error).splitlines()) == 1 and str(folder) in str(error)
        assert not way.sound
        return
    if way.sound:
        assert encoder.embed("a text").shape == (1, 48)
    elif not way.either:  # what only a run can show
        with pytest.raises(ArtifactError) as caught:
            encoder.embed("a text")
        one_line(caught, folder)


# --- strangers' models, and poor surroundings


@pytest.mark.parametrize("way", strangers.MODEL, ids=lambda way: way.name)
def test_strangers_models_are_opened_or_refused_in_one_line(
    way: damage.Way, tiny: Path, tmp_path: Path
) -> None:
    from goldfold.exporter.frontend.source import open_model

    folder = spoilt(tiny, tmp_path, ".", way)
    try:
        source = open_model(folder)
    except GoldfoldError as error:
        assert len(str(error).splitlines()) == 1 and str(folder) in str(error)
        assert not (way.sound or way.either)
        return
    assert way.sound or way.either
    assert source.licence is None or source.licence.isprintable()


def test_drawn_surroundings_hold_every_home_and_locale() -> None:
    places = list(environment.draw(20, 0))
    assert {place.home for place in places} == set(environment.HOMES)
    assert {place.streams for place in places} == set(environment.STREAMS)
    assert all(set(one.items()) <= set().union(*(place.variables.items() for place in places))
               for one in environment.LOCALES)  # fmt: skip
    assert places == list(environment.draw(20, 0))


# --- what was found, and mended


def test_fresh_verdict_is_not_written_through_a_link(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    folder = spoilt(artifacts["onnxruntime"], tmp_path, "verdict.json", damage.VERDICT[0])
    assert verify(folder, threads=1).passed
    assert (tmp_path / "victim" / "secret.bin").read_bytes() == b"secret"
    assert not (folder / "verdict.json").is_symlink()


def test_numbers_that_a_file_only_claims_take_no_memory(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    for place, way in enumerate(map(damage.sealed, headers.NPY)):
        room = tmp_path / str(place)
        room.mkdir()
        folder = spoilt(artifacts["onnxruntime"], room, "golden/embeddings.npy", way)
        with pytest.raises(ArtifactError) as caught:
            verify(folder, threads=1)
        one_line(caught, folder)


def test_what_is_no_file_of_openvinos_is_not_tried_as_other_formats(
    artifacts: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = spoilt(artifacts["openvino"], tmp_path, "openvino_model.xml", damage.sealed(
        headers.XML[0]))  # fmt: skip
    with pytest.raises(ArtifactError) as caught:
        load(folder, threads=1)
    one_line(caught, "openvino_model.xml")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("key", ["config.json", "tokenizer.json", "2_Dense/model.safetensors"])
@pytest.mark.parametrize("way", damage.ANY[3:4] + damage.ANY[5:9], ids=lambda way: way.name)
def test_what_is_no_file_of_a_model_is_refused(
    key: str, way: damage.Way, tiny: Path, tmp_path: Path
) -> None:
    from goldfold.exporter.frontend.source import open_model

    folder = spoilt(tiny, tmp_path, key, way)
    with pytest.raises(GoldfoldError) as caught:
        open_model(folder)
    one_line(caught, folder / key)


def test_settings_that_break_the_reference_are_one_line(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "broken"))
    file = folder / "2_Dense" / "config.json"
    file.write_text(file.read_text().replace('"in_features": 48', '"in_features": NaN'))
    with pytest.raises(GoldenError) as caught:
        make.make(folder, name="broken", digests={}, only=("empty",))
    one_line(caught, folder)


def test_artifact_taken_from_its_place_is_put_back_after_a_kill(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    """As `kill -9` leaves it between the two renamings of bundle.publish."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    retired = tmp_path / f".goldfold-{pid}-x" / "retired-y"
    retired.mkdir(parents=True)
    shutil.copytree(artifacts["onnxruntime"], retired / "onnxruntime-fp32")
    with bundle.scratch(tmp_path):
        assert open_bundle(tmp_path / "onnxruntime-fp32").verdict is not None
    assert [path.name for path in tmp_path.iterdir()] == ["onnxruntime-fp32"]


# --- full disks, in the words of each writer


def openvino(exported: Exported, folder: Path) -> None:
    from goldfold.targets.openvino import TARGET, build

    program = exported.copy()
    for law in TARGET.backend_passes("fp32", program.contract, {}):
        law.rewrite(program.model)
    build.write(program, "fp32", folder)


def onnx(exported: Exported, folder: Path) -> None:
    from goldfold.targets.onnxruntime import TARGET

    program = exported.copy()
    for law in TARGET.backend_passes("fp32", program.contract, {}):
        law.rewrite(program.model)
    write(program, folder, "onnxruntime")


@pytest.mark.parametrize(
    ("build", "patched", "error"),
    [
        (openvino, "openvino.save_model", RuntimeError("basic_ios::clear: iostream error")),
        (onnx, "onnx_ir.save", OSError("2304 requested and 1024 written")),
        (onnx, "onnx_ir.save", OSError(28, "No space left on device")),
    ],
)
def test_full_disk_is_said_whatever_the_library_says(
    build: Callable[[Exported, Path], None],
    patched: str,
    error: Exception,
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(patched, full)
    with pytest.raises(OutputError) as caught:
        build(exported, tmp_path)
    one_line(caught, tmp_path, "make room")
    assert any(word in str(caught.value) for word in ("takes no more", "No space left"))


def test_whatever_goes_wrong_on_a_full_disk_is_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="cut off"), bundle.scratch(tmp_path):
        raise ValueError("cut off")
    usage = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OutputError, match="No space left"), bundle.scratch(tmp_path):
        raise ValueError("cut off")
    assert not list(tmp_path.iterdir())

"""Speed, measured by `goldfold report --speed`, and the plots of what is inside an artifact."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import VerdictRecord
from goldfold.exporter.cli.app import app
from goldfold.exporter.errors import TargetError
from goldfold.exporter.progress import Stages
from goldfold.exporter.records import KindRange, LayerLook, read_json
from goldfold.exporter.report import collect, latency
from goldfold.exporter.report.page import page
from goldfold.exporter.report.pareto import front, pictures


@pytest.fixture
def out(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    for target, path in artifacts.items():
        shutil.copytree(path, tmp_path / "out" / f"{target}-fp32")
    return tmp_path / "out"


def test_artifacts_are_timed_in_turn_and_remember_it(out: Path) -> None:
    damaged = out / "openvino-fp16"
    shutil.copytree(out / "openvino-fp32", damaged)
    (damaged / "tokenizer.json").unlink()
    folders = sorted(out.iterdir())
    shapes = ((1, 4), (2, 8), (1, 1 << 20))
    timed, left = latency.measure(
        folders, Stages(), shapes=shapes, rounds=2, seconds=0.01, threads=1
    )
    assert [path.name for path in timed] == ["onnxruntime-fp32", "openvino-fp32"]
    assert list(left) == ["openvino-fp16"] and "tokenizer.json is missing" in left["openvino-fp16"]
    for path in timed:
        record = read_json(VerdictRecord, (path / bundle.VERDICT).read_bytes())
        found = record.speed
        assert found is not None and found.threads == 1
        assert found.beside == ("onnxruntime-fp32", "openvino-fp32")
        assert [(p.batch, p.tokens) for p in found.shapes] == [(1, 4), (2, 8)]  # no text is so long
        for pace in found.shapes:
            assert 0 < pace.p10 <= pace.median <= pace.p90 and pace.calls >= 2
            assert pace.per_text == pace.median / pace.batch
        bundle.open_bundle(path)  # times are outside the digests
    report = collect([out])
    assert report.timed == ((1, 4), (2, 8))
    assert [plot.title for plot in pictures(report)] == ["Size and quality", "Speed and quality"]
    shown = page(report)
    assert "ms per text<br>2 × 8" in shown and "in turn: onnxruntime-fp32, openvino-fp32" in shown


def test_command_times_only_when_asked(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "measure", lambda *args: pytest.fail("not asked"))
    done = CliRunner().invoke(app, ["report", str(out)])
    assert done.exit_code == 0, done.output
    assert "ms per text" not in (out / "report.html").read_text("utf-8")
    monkeypatch.setattr(latency, "measure", lambda *args: ([], {"a": "no GPU"}))
    done = CliRunner().invoke(app, ["report", str(out), "--speed"])
    assert isinstance(done.exception, TargetError) and "no GPU" in str(done.exception)


def test_front_is_what_nothing_beats(out: Path) -> None:
    report = collect([out])
    small, close = report.artifacts[0], report.artifacts[1]
    assert small.judged is not None and close.judged is not None

    def like(name: str, size: int, worst: float, state: str = "passed"):
        judged = small.judged
        assert judged is not None
        figures = judged.with_(worst=worst, worst_padded=worst)
        update = {"folder": name, "bytes": size, "measured": figures, "state": state}
        return small.with_(**update)

    drawn = (
        like("small", 10, 1e-9), like("close", 20, 1e-11), like("neither", 21, 1e-9),
        like("failed", 1, 1e-14, "failed"), like("same", 20, 1e-11),
    )  # fmt: skip
    whole = report.with_(artifacts=drawn)
    assert front(whole) == ("small", "close", "same")
    (plot,) = pictures(whole)
    styles = {dot.title.partition(":")[0]: dot.style for dot in plot.dots}
    assert {name for name, style in styles.items() if "faint" in style} == {"neither"}
    assert "bad" in styles["failed"]
    assert sum(bar.style == "gate" for bar in plot.bars) == 5


def test_page_draws_layers_and_headroom(out: Path) -> None:
    file = out / "openvino-fp32" / bundle.VERDICT
    record = read_json(VerdictRecord, file.read_bytes())
    row = {"at": "h", "values": 3}
    ranges = (
        KindRange(kind="residual stream", peak=2e5, scaled=2e5 / 32, half=True, **row),
        KindRange(kind="norms", peak=float("inf"), scaled=float("inf"), half=True, **row),
        KindRange(kind="pooling and head", peak=8e4, scaled=8e4, half=False, **row),
    )
    looks = tuple(
        LayerLook(layer=f"transformer.layers.{i}", worst=worst, worst_id="empty")
        for i, worst in enumerate((1e-14, 1e-9, float("inf")))
    )
    bundle.write_verdict(file.parent, record.with_(layers=looks, ranges=ranges))
    again = read_json(VerdictRecord, file.read_bytes())
    assert (again.layers, again.ranges) == (looks, ranges)
    report = collect([out])
    json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(name))
    artifact = next(a for a in report.artifacts if a.folder == "openvino-fp32")
    assert [step.worst for step in artifact.layers] == [1e-14, 1e-9, float("inf")]
    shown = page(report)
    for word in (
        "Drift by layer", "after transformer.layers.2: not finite", "fp16 headroom",
        "residual stream: 6,250 behind scale-residual", "fp16 ends: 65,504", "kept in f32",
    ):  # fmt: skip
        assert word in shown, word
    bad = re.findall(r'class="dot bad"[^>]*><title>([^<]*)', shown)
    assert [title.partition(":")[0] for title in bad if "norms" in title] == ["norms"]
    assert not any("pooling" in title for title in bad)

"""An export of which a part cannot be built: the rest is built, verified and in its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from goldfold import GoldfoldError, export, load
from goldfold.exporter.artifact import unbuilt
from goldfold.exporter.cli import app
from goldfold.exporter.driver import exporting, preparing
from goldfold.exporter.errors import OutputError, RewriteError, TargetError, UsageError
from goldfold.exporter.ir import onnx_file
from goldfold.exporter.quantize import texts
from goldfold.exporter.records import read_json
from goldfold.exporter.report import Report, collect
from goldfold.golden import make as golden_make
from goldfold.targets.onnxruntime import TARGET as ONNX
from goldfold.targets.openvino import TARGET as OPENVINO
from tests.conftest import GOLDEN_TEXTS, Exported
from tests.exporter.cli.outcome import names

BOTH = ("onnxruntime", "openvino")
RECIPE = 'gains = "keep"\n[weights]\nbits = 8\nblock = 16\n'


@pytest.fixture
def quick(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare an export its trace; a few golden texts."""
    monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS[:10]))
    monkeypatch.setattr(exporting, "traced", lambda *args: exported.copy())
    monkeypatch.setattr(exporting, "rewrite", lambda *args: None)
    monkeypatch.setattr(texts, "calibration_texts", lambda: GOLDEN_TEXTS[:6])


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, BaseException], None]:
    """Let a target's build raise an error, half a file written."""

    def broken(target: Any, error: BaseException) -> None:
        def build(self: Any, program: Any, precision: str, folder: Path, options: Any) -> Any:
            (folder / "half").write_bytes(b"half")
            raise error

        monkeypatch.setattr(type(target), "build", build)

    return broken


SAID = "onnxruntime cannot spell Foo (node foo, from layers.0)"


@pytest.mark.usefixtures("quick")
def test_the_others_are_built_and_the_error_says_which_is_not(
    tiny: Path, tmp_path: Path, breaks: Callable
) -> None:
    breaks(ONNX, RewriteError(SAID))
    with pytest.raises(RewriteError) as caught:
        export(tiny, BOTH, ["fp32"], tmp_path)
    error = caught.value
    assert str(error) == f"onnxruntime-fp32 was not built: {SAID}"
    assert error.code == 7
    (result,) = error.results
    assert result.passed and result.path == tmp_path / "openvino-fp32"
    assert load(result.path).contract.dim == 48
    (failure,) = error.failures
    assert (failure.name, failure.target, failure.precision) == (
        "onnxruntime-fp32", "onnxruntime", "fp32",
    )  # fmt: skip
    assert type(failure.error) is RewriteError and str(failure.error) == SAID
    assert names(tmp_path) == {"openvino-fp32", "onnxruntime-fp32.unbuilt.json"}


@pytest.mark.usefixtures("quick")
def test_the_report_shows_it_as_not_built_until_it_is(
    tiny: Path, tmp_path: Path, breaks: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(ONNX, RewriteError(f"{SAID}: <b>\x1b[96m"))
    with pytest.raises(RewriteError), monkeypatch.context():
        export(tiny, BOTH, ["fp32"], tmp_path)
    for _ in range(2):  # as the export left it, and as `goldfold report` collects it anew
        report = read_json(Report, (tmp_path / "report.json").read_bytes())
        assert not report.passed
        states = {a.folder: a.state for a in report.artifacts}
        assert states == {"onnxruntime-fp32": "unbuilt", "openvino-fp32": "passed"}
        (lost,) = [a for a in report.artifacts if a.state == "unbuilt"]
        assert (lost.target, lost.precision) == ("onnxruntime", "fp32")
        assert lost.reasons[0].startswith(SAID) and "\x1b" not in lost.reasons[0]
        page = (tmp_path / "report.html").read_text("utf-8")
        visible = re.sub(r"<[^>]+>", " ", page[page.index("<body>") :])
        assert visible.split()[0] == "FAIL"
        assert "not built" in visible and "1 of 2 artifacts" in page and "&lt;b&gt;" in page
        root = ElementTree.parse(tmp_path / "junit.xml").getroot()
        suites = {suite.get("name"): suite for suite in root}
        (case,) = suites["onnxruntime-fp32"]
        assert case.get("name") == "builds" and SAID in (case.findtext("error") or "")
        assert root.get("errors") == "1" and suites["openvino-fp32"].get("errors") == "0"
        assert app.guarded(partial(app.app, args=["report", str(tmp_path)]), False) == 0
    monkeypatch.undo()


@pytest.mark.usefixtures("quick")
def test_the_next_export_takes_the_record_away(
    tiny: Path, tmp_path: Path, breaks: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "write", lambda *args: (_ for _ in ()).throw(RewriteError(SAID)))
        with pytest.raises(RewriteError, match=re.escape(SAID)):
            export(tiny, ["onnxruntime"], ["fp32"], tmp_path)
    assert names(tmp_path) == {"onnxruntime-fp32.unbuilt.json"}
    assert [a.state for a in collect([tmp_path]).artifacts] == ["unbuilt"]
    (result,) = export(tiny, ["onnxruntime"], ["fp32"], tmp_path)  # needs no force
    assert result.passed
    assert names(tmp_path) == {"onnxruntime-fp32"}
    # An earlier artifact of the name stays where it is.
    breaks(ONNX, RewriteError(SAID))
    with pytest.raises(RewriteError):
        export(tiny, ["onnxruntime"], ["fp32"], tmp_path)
    assert load(tmp_path / "onnxruntime-fp32").contract.dim == 48
    assert [a.state for a in collect([tmp_path]).artifacts] == ["passed", "unbuilt"]


@pytest.mark.usefixtures("quick")
def test_one_pair_alone_raises_its_own_error(tiny: Path, tmp_path: Path, breaks: Callable) -> None:
    breaks(ONNX, TargetError("sm75 cannot"))
    with pytest.raises(TargetError) as caught:
        export(tiny, ["onnxruntime"], ["fp32"], tmp_path)
    assert str(caught.value) == "sm75 cannot" and not caught.value.results
    assert [one.name for one in caught.value.failures] == ["onnxruntime-fp32"]


@pytest.mark.usefixtures("quick")
def test_the_highest_code_counts_and_what_nobody_foresaw_is_a_fault_of_ours(
    tiny: Path, tmp_path: Path, breaks: Callable
) -> None:
    breaks(ONNX, TargetError("lacks it"))
    breaks(OPENVINO, ZeroDivisionError("by nothing\nat all"))
    with pytest.raises(GoldfoldError) as caught:
        export(tiny, BOTH, ["fp32"], tmp_path)
    error = caught.value
    assert error.code == 7 and not error.results
    assert str(error) == (
        "openvino-fp32 was not built: ZeroDivisionError: by nothing; --debug shows where; "
        "nor were onnxruntime-fp32"
    )
    assert "in build" in "".join(error.__notes__)  # the traceback, for --debug
    assert [one.error.code for one in error.failures] == [4, 7]
    assert all(one.error.__traceback__ is None for one in error.failures)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), MemoryError),
        (OSError(28, "No space left on device"), OutputError),
        (OutputError("cannot write out"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["memory", "disk", "output", "ctrl-c"],
)
def test_what_the_next_would_meet_as_well_ends_the_run(
    error: BaseException, kind: type[BaseException], tiny: Path, tmp_path: Path, breaks: Callable
) -> None:
    breaks(ONNX, error)
    with pytest.raises(kind):
        export(tiny, BOTH, ["fp32"], tmp_path)
    assert names(tmp_path) == set()


@pytest.mark.usefixtures("quick")
def test_a_recipe_that_fails_takes_nothing_with_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calibration fails between floating artifacts and another recipe's."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.toml").write_text(RECIPE)
    quantize = preparing.quantize

    def failing(program: Any, recipe: Any, *args: Any) -> dict[str, float]:
        if recipe.name == "first":
            raise UsageError("recipe first: a rule fits nothing")
        return quantize(program, recipe, *args)

    monkeypatch.setattr(exporting, "quantize", failing)
    precisions = [str(tmp_path / "first.toml"), "fp32", str(tmp_path / "second.toml")]
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="onnxruntime-first was not built: recipe first") as caught:
        export(tiny, ["onnxruntime"], precisions, out, locate=False)
    assert [r.path.name.removesuffix(".failed") for r in caught.value.results] == [
        "onnxruntime-fp32", "onnxruntime-second",
    ]  # fmt: skip
    assert "onnxruntime-first.unbuilt.json" in names(out)


@pytest.mark.usefixtures("quick")
def test_a_fault_while_measuring_is_the_artifact_s_own(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_(self: Any, *args: Any) -> Any:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 17179869184")

    monkeypatch.setattr(type(ONNX), "load", load_)
    with pytest.raises(GoldfoldError, match="onnxruntime-fp32 was not built: RuntimeError: Failed"):
        export(tiny, BOTH, ["fp32"], tmp_path)
    assert names(tmp_path) == {"openvino-fp32", "onnxruntime-fp32.unbuilt.json"}


# --- the command


@pytest.fixture
def goldfold(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*args: object, debug: bool = False) -> tuple[int, str, str]:
        code = app.guarded(partial(app.app, args=[str(arg) for arg in args]), debug)
        out, err = capsys.readouterr()
        return code, out, err

    return run


PAIRS = ("--target", "onnxruntime", "--target", "openvino")


@pytest.mark.usefixtures("quick")
def test_the_command_shows_what_was_built_and_ends_with_the_error(
    tiny: Path, tmp_path: Path, breaks: Callable, goldfold: Callable
) -> None:
    breaks(ONNX, TargetError("lacks [bold]it"))
    code, out, err = goldfold("export", tiny, *PAIRS, "--out", tmp_path)
    assert code == 4
    assert "openvino-fp32" in out and "PASS" in out and "onnxruntime" not in out
    lines = err.splitlines()
    assert any(line.startswith("✗ onnxruntime-fp32") and "lacks [bold]it" in line for line in lines)
    assert any(line.startswith("✓ verify openvino-fp32") for line in lines)
    assert lines[-1] == "error: onnxruntime-fp32 was not built: lacks [bold]it"
    code, out, err = goldfold("export", tiny, *PAIRS, "--out", tmp_path, "--json")
    good, bad = json.loads(out)
    assert (code, err) == (4, "error: onnxruntime-fp32 was not built: lacks [bold]it\n")
    assert good.keys() == bad.keys()
    assert (good["passed"], good["code"], good["target"]) == (True, 0, "openvino")
    assert (bad["passed"], bad["code"], bad["target"]) == (False, 4, "onnxruntime")
    assert bad["reasons"] == ["lacks [bold]it"] and bad["path"] is None


@pytest.mark.usefixtures("quick")
def test_debug_shows_where_it_happened(
    tiny: Path, tmp_path: Path, breaks: Callable, goldfold: Callable
) -> None:
    breaks(ONNX, ZeroDivisionError("by nothing"))
    _, _, err = goldfold("export", tiny, *PAIRS, "--out", tmp_path, "--quiet", debug=True)
    assert "in build" in err and "ZeroDivisionError: by nothing" in err


@pytest.mark.usefixtures("quick")
def test_several_that_fail_are_a_line_each(
    tiny: Path, tmp_path: Path, breaks: Callable, goldfold: Callable
) -> None:
    breaks(ONNX, TargetError("lacks it"))
    breaks(OPENVINO, RewriteError("cannot spell it"))
    code, out, err = goldfold("export", tiny, *PAIRS, "--out", tmp_path, "--quiet")
    assert (code, out) == (7, "")
    assert err.splitlines() == [
        "onnxruntime-fp32: lacks it",
        "openvino-fp32: cannot spell it",
        "error: openvino-fp32 was not built: cannot spell it; nor were onnxruntime-fp32",
    ]


def test_a_damaged_artifact_does_not_keep_others_from_being_verified(
    artifacts: dict[str, Path], tmp_path: Path, goldfold: Callable
) -> None:
    import shutil

    for name in ("a-broken", "b-good", "c-broken"):
        shutil.copytree(artifacts["onnxruntime"], tmp_path / name)
    (tmp_path / "a-broken" / "tokenizer.json").unlink()
    (tmp_path / "c-broken" / "model.onnx").write_bytes(b"")
    code, out, err = goldfold("verify", tmp_path, "--quiet")
    assert code == 6 and "onnxruntime-fp32" in out and "PASS" in out
    assert [line.split(":")[0] for line in err.splitlines()] == ["a-broken", "c-broken", "error"]
    code, out, _ = goldfold("verify", tmp_path, "--json")
    assert [entry["code"] for entry in json.loads(out)] == [0, 6, 6]


# --- the record


def test_a_record_that_is_no_record_is_damaged(artifacts: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "x.unbuilt.json").write_text("{")
    (tmp_path / "y.unbuilt.json").symlink_to("/dev/zero")
    report = collect([tmp_path])
    assert [(a.folder, a.state) for a in report.artifacts] == [
        ("x.unbuilt.json", "damaged"), ("y.unbuilt.json", "damaged"),
    ]  # fmt: skip


def test_a_reason_is_one_line_and_no_page(tmp_path: Path) -> None:
    failed = unbuilt.failure("t", "fp32", RewriteError("long\nstory " * 9999))
    (tmp_path / "scratch").mkdir()
    unbuilt.write(tmp_path, failed, tmp_path / "scratch")
    ((name, record),) = unbuilt.records(tmp_path)
    assert name == "t-fp32.unbuilt.json" and record is not None
    assert len(record.reason) < 2100 and "\n" not in record.reason

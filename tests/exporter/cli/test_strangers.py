"""What strangers wrote is text on the terminal and in reports, names of theirs become no folders,
and what cannot be written is said before the work or beside the result."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.table import Table
from rich.text import Text

from goldfold.exporter import report
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.cli import console
from goldfold.exporter.cli.console import open_console
from goldfold.exporter.errors import OutputError
from goldfold.exporter.quantize.recipe import made
from goldfold.exporter.search import outcome
from goldfold.exporter.verification import verifying
from goldfold.exporter.verification.verifying import verify
from tests.exporter.cli.outcome import PAIR, Run, names, refused
from tests.torture.tortures.damage import write_manifest

ROOT = Path(__file__).parents[3]
EVIL = "a\x1b]0;owned\x07\x9b31m[bold red]RED[/]\u202e\u2028b :smile: \ud83e\udd80"
"""A title, a colour, rich's markup, a direction of writing, a line's end, half a character."""
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029]")


def harmless(text: str) -> None:
    assert not STEERING.search(text), STEERING.search(text)


def say_evil(folder: Path) -> None:
    """Put EVIL wherever a manifest and a verdict take any text."""
    evil = EVIL.encode("utf-8", "replace").decode()
    record = json.loads((folder / "manifest.json").read_bytes())
    record["contract"] |= {"model": evil, "prompts": {evil: evil}, "default_prompt_name": evil}
    record["origin"] |= {"name": evil, "licence": evil, "digests": {evil: "0" * 64}}
    record |= {"notes": [evil], "built": [evil], "versions": {evil: evil}, "goldfold": evil}
    record |= {"census": {evil: 1}, "attention": {evil: 1}}
    record["passes"][0] |= {"name": evil, "equality": evil, "refused": [evil]}
    write_manifest(folder, record)
    verdict = json.loads((folder / "verdict.json").read_bytes())
    verdict |= {
        "reasons": [{"kind": "goldens", "note": evil, "text": evil}],
        "status": "failed",
        "stand_in": evil,
        "not_run": evil,
        "machine": {evil: evil, "measured": evil},
    }
    verdict["measurement"]["worst_id"] = evil
    (folder / "verdict.json").write_text(json.dumps(verdict))


@pytest.mark.parametrize(
    "words",
    [("inspect", "{}"), ("inspect", "{}", "--json"), ("verify", "{}"), ("diff", "{}", "{other}"),
     ("diff", "{}", "{other}", "--json"), ("embed", "{}", "x", "--prompt", EVIL[:20]),
     ("report", "{}")],
    ids=lambda words: "-".join(words[:1] + words[2:3]),
)  # fmt: skip
def test_no_command_prints_what_steers_a_terminal(
    words: tuple[str, ...], goldfold: Run, artifact: Path, artifacts: dict[str, Path]
) -> None:
    say_evil(artifact)
    other = artifacts["onnxruntime"]
    done = goldfold(*(word.format(artifact, other=other) for word in words))
    harmless(done.out)
    harmless(done.err)
    assert done.code in (0, 1, 2, 6)


def test_markup_in_a_manifest_is_text(goldfold: Run, artifact: Path) -> None:
    say_evil(artifact)
    shown = goldfold("inspect", artifact).out
    assert "[bold red]RED[/]" in shown and ":smile:" in shown


def test_tracebacks_are_text_as_well(goldfold: Run) -> None:
    done = goldfold("--debug", "verify", f"/nowhere/{EVIL[:20]}", "-q", debug=True)
    assert "Traceback" in done.err
    harmless(done.err)


def test_the_console_is_where_it_happens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = open_console()
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    for printed in (EVIL, Text(EVIL, "red"), table):
        out.print(printed)
        harmless(capsys.readouterr().out)
    for printed in (f"one\n{EVIL}", Text(f"one\r\n{EVIL}")):
        out.print(printed, soft_wrap=True)
        shown = capsys.readouterr().out
        assert shown.startswith("one") and shown.count("\n") == 1
    live = console.Live(open_console())
    live.begin(EVIL)
    live.detail(f"{EVIL}\nx")
    live.end(EVIL, 1.0, EVIL)
    shown = capsys.readouterr().out
    harmless(shown)
    assert shown.count("\n") == 1


def test_colours_of_our_own_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    out = open_console()
    out.file = io.StringIO()
    out.print(Text("PASS", "green"))
    assert "\x1b[32mPASS" in out.file.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_lacks_is_replaced(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    open_console().print(Text("1−cos 字 🧀"))
    sys.stdout.flush()
    assert raw.getvalue().decode(encoding).strip() == "1?cos ? ?"


# --- reports


def test_a_report_is_whole_and_harmless_whatever_an_artifact_says(
    artifact: Path, tmp_path: Path
) -> None:
    say_evil(artifact)
    out = tmp_path / "reports"
    found, page = report.write([artifact], out)
    assert found.artifacts[0].state == "failed"
    ElementTree.parse(out / "junit.xml")
    html = page.read_text("utf-8")
    harmless(html.replace("\t", ""))
    assert "<svg" in html  # pictures are not escaped
    assert json.loads((out / "report.json").read_text("utf-8"))["artifacts"][0]["reasons"]


def test_folders_with_odd_names_are_reported(artifacts: dict[str, Path], tmp_path: Path) -> None:
    for name in (b"\x1b[2Jevil", b"caf\xe9", b"a\nb"):
        shutil.copytree(artifacts["onnxruntime"], Path(os.fsdecode(bytes(tmp_path) + b"/" + name)))
    found, page = report.write([tmp_path])
    assert [one.state for one in found.artifacts] == ["passed"] * 3
    ElementTree.parse(page.with_name("junit.xml"))
    harmless(page.read_text("utf-8"))


# --- names that become folders


@pytest.mark.parametrize("stem", ["a\nb", "..", "a b", "-x", "x" * 65, "nul", "a:b", "é"])
@pytest.mark.usefixtures("untraced")
def test_a_recipe_s_name_is_plain(stem: str, goldfold: Run, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / f"{stem}.toml"
    file.write_text("[weights]\nbits = 8\n")
    out = tmp_path / "out"
    done = goldfold(
        "export", tiny, "--target", "onnxruntime", "--precision", file, "--out", out, "-q"
    )
    refused(done, 2, "rename the file")
    assert not out.exists()


@pytest.mark.usefixtures("untraced")
def test_a_recipe_is_called_what_its_file_is(goldfold: Run, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "../../evil"\n[weights]\nbits = 8\n')
    done = goldfold("export", tiny, "--target", "onnxruntime", "--precision", file, "-q")
    refused(done, 2, "mine.toml", "a recipe is called what its file is")
    with file.open("wb") as opened:
        opened.truncate(1 << 30)
    done = goldfold("export", tiny, "--target", "onnxruntime", "--precision", file, "-q")
    refused(done, 2, "larger than 1 MiB")


@pytest.mark.parametrize("option", ["--out", "--dump"])
@pytest.mark.usefixtures("untraced")
def test_folders_with_line_breaks_are_refused_at_once(
    option: str, goldfold: Run, tiny: Path, tmp_path: Path
) -> None:
    others = () if option == "--out" else ("--out", tmp_path / "out")
    done = goldfold("export", tiny, *PAIR, option, tmp_path / "a\nb", *others, "-q")
    refused(done, 5, "no name for a folder", option)
    assert names(tmp_path) <= {"out"}


@pytest.mark.usefixtures("untraced")
def test_a_model_s_name_is_a_line(goldfold: Run, tiny: Path, tmp_path: Path) -> None:
    done = goldfold("export", tiny, *PAIR, "--name", "a\nb", "--out", tmp_path / "out", "-q")
    refused(done, 2, "--name", "one line")


def test_a_recipe_that_is_written_holds_no_lines_of_others() -> None:
    recipe = made("mine", {"weights": {"bits": 8}})
    text = outcome.to_toml(recipe, ["of a\n[table]\nbits = 4"])
    assert text.splitlines()[0] == "# of a [table] bits = 4"


# --- what cannot be written


@pytest.fixture
def locked(artifact: Path) -> Any:
    """Run a command as somebody who may read everything and write nothing."""
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("only root may become somebody else")
    for path in (artifact, *artifact.parents):
        path.chmod(path.stat().st_mode | 0o055)

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-P",
             "-m", "goldfold", *map(str, words)],
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )  # fmt: skip

    return run


def test_a_result_that_cannot_be_recorded_is_printed(locked: Callable, artifact: Path) -> None:
    before = (artifact / "verdict.json").read_bytes()
    done = locked("verify", artifact, "--quiet")
    assert done.returncode == 0, done.stderr
    assert "PASS" in done.stdout
    (said,) = done.stderr.splitlines()
    assert said.startswith("not recorded: cannot write") and "Permission denied" in said
    assert (artifact / "verdict.json").read_bytes() == before


def test_a_result_that_cannot_be_recorded_says_so_in_json(
    artifact: Path, goldfold: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(goldfold("verify", artifact, "--json").out)[0]["unrecorded"] == ""
    shutil.copytree(artifact, artifact.with_name("later"))
    record = json.loads((artifact.with_name("later") / "manifest.json").read_bytes())
    write_manifest(artifact.with_name("later"), {**record, "notes": ["another"]})
    measure = verifying.measure_all

    def replaced(*args: Any, **how: Any) -> Any:
        artifact.rename(artifact.with_name("earlier"))
        artifact.with_name("later").rename(artifact)
        return measure(*args, **how)

    monkeypatch.setattr(verifying, "measure_all", replaced)
    found = verify(artifact)
    assert found.passed and "was replaced while it was measured" in found.unrecorded
    assert open_bundle(artifact).manifest.notes == ("another",)


def test_what_a_gate_misses_is_its_exit_code_even_so(
    artifact: Path, goldfold: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*args: Any) -> None:
        raise OutputError("cannot write there: Read-only file system")

    monkeypatch.setattr("goldfold.exporter.artifact.bundle.write_verdict", cannot)
    done = goldfold("verify", artifact, "--quiet")
    assert (done.code, done.err) == (0, "not recorded: cannot write there: Read-only file system\n")


def test_what_is_to_be_saved_is_tried_before_the_work(
    goldfold: Run, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("this must be refused before an artifact is opened")

    monkeypatch.setattr("goldfold.exporter.artifact.encoder.load", never)
    monkeypatch.setattr("goldfold.exporter.verification.judging.judge_artifacts", never)
    for place in (tmp_path / "nowhere" / "x.npy", tmp_path):
        refused(goldfold("embed", artifact, "x", "--save", place), 5, place, "--save")
    refused(goldfold("judge", artifact, "--json", tmp_path), 5, tmp_path, "--json")


def test_a_signature_is_of_the_artifact_that_is_verified(
    artifact: Path, goldfold: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digest = hashlib.sha256((artifact / "manifest.json").read_bytes()).hexdigest()
    words = ("verify", artifact, "-q", "--signature", "s", "--public-key", "k")
    monkeypatch.setattr("goldfold.exporter.artifact.sign.check", lambda *args: digest)
    assert goldfold(*words).code == 0
    monkeypatch.setattr("goldfold.exporter.artifact.sign.check", lambda *args: "0" * 64)
    refused(goldfold(*words), 6, "was replaced after its signature was checked")

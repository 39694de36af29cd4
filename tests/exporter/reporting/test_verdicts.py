"""The three verdicts in a report: passed, proved by what stands for the artifact, failed."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from goldfold.exporter.artifact import bundle
from goldfold.exporter.cli.app import app
from goldfold.exporter.records import read_json
from goldfold.exporter.report import Report, collect, write
from goldfold.exporter.report.junit import RUNS
from goldfold.exporter.report.page import page
from goldfold.exporter.report.pareto import front

STOOD = {"stand_in": "its program, in <our> evaluator", "not_run": "not run on its device: no Mac"}
MISSED = {"status": "failed", "reasons": [{"kind": "goldens", "note": "One is missing."}]}


@pytest.fixture
def out(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with a passed artifact, a proved one, and two that failed: one ran, one did not."""
    folder = tmp_path / "out"
    kinds: dict[str, dict[str, Any]] = {
        "a-passed": {},
        "b-proved": {"status": "proved", **STOOD},
        "c-failed": MISSED,
        "d-failed": MISSED | STOOD,
    }
    for name, changes in kinds.items():
        shutil.copytree(artifacts["onnxruntime"], folder / name)
        verdict = json.loads((folder / name / bundle.VERDICT).read_text())
        (folder / name / bundle.VERDICT).write_text(json.dumps(verdict | changes))
    return folder


class Shown(HTMLParser):
    """The visible words of a page, with the classes of the tags around them; nothing that lies in a
    collapsed section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._open: list[tuple[str, str, bool]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        hidden = tag in ("style", "title") or (tag == "details" and "open" not in given)
        if tag != "meta":
            self._open.append((tag, given.get("class") or "", hidden))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and not any(hidden for *_, hidden in self._open):
            self.words.append((" ".join(data.split()), self._open[-1][1]))


def test_a_report_counts_the_three(out: Path) -> None:
    report = collect([out])
    assert [one.state for one in report.artifacts] == ["passed", "proved", "failed", "failed"]
    assert (report.status, report.passed) == ("failed", False)
    report = collect([out / "a-passed", out / "b-proved"])
    assert (report.status, report.passed) == ("proved", True)
    assert {*front(report)} == {"a-passed", "b-proved"}
    assert collect([out / "a-passed"]).status == "passed"
    write([out])
    record = (out / "report.json").read_text("utf-8")
    proved = read_json(Report, record).artifacts[1]
    assert (proved.stand_in, proved.not_run) == tuple(STOOD.values())
    assert json.loads(record)["status"] == "failed"


def test_each_verdict_has_its_word_colour_and_icon(out: Path) -> None:
    text = page(collect([out]))
    words = Shown(text).words
    badges = [one for one in words if one[1].startswith("badge")]
    assert {*badges} == {
        ("PASS", "badge passed"), ("PROVED", "badge proved"), ("FAIL", "badge failed"),
    }  # fmt: skip
    styles = text[text.index("<style>") : text.index("</style>")]
    seen = {}
    for name in ("passed", "proved", "failed"):
        icon = re.search(rf'\.{name}\.badge::before[^}}]*content: "([^"]+)"', styles)
        colour = re.search(rf"\.{name}\.badge, [^}}]*color: ([^;]+);", styles)
        seen[name] = (icon and icon[1], colour and colour[1])
    assert len({icon for icon, _ in seen.values()} - {None}) == 3
    assert seen["passed"][1] == "var(--good)" and seen["proved"][1] == "var(--proved)"
    assert seen["failed"][1] is None  # as everything else that is not good


def test_what_stood_in_is_shown_and_not_collapsed(out: Path) -> None:
    words = [word for word, _ in Shown(page(collect([out]))).words]
    assert words.count(STOOD["stand_in"]) == words.count(STOOD["not_run"]) == 2
    assert words[0] == "FAIL"
    counted = " ".join(words[:4])
    assert (
        "1 of 4 artifacts passed, 1 proved but not run here in its precision, 2 neither" in counted
    )
    assert "16 texts" in counted and words.count("16") >= 4  # a row each


def test_a_report_of_proofs_alone_is_not_stamped_as_passed(out: Path) -> None:
    text = page(collect([out / "b-proved"]))
    assert Shown(text).words[0] == ("PROVED", "stamp")
    assert '<header class="proved">' in text and "badge passed" not in text
    alone = page(collect([out / "a-passed"]))
    assert '<header class="passed">' in alone and "PROVED" not in alone


def test_a_device_test_that_did_not_run_is_skipped(out: Path) -> None:
    write([out])
    root = ElementTree.parse(out / "junit.xml").getroot()
    found = {suite.get("name"): suite for suite in root}
    runs = {
        name: [case for case in suite if case.get("name") == RUNS] for name, suite in found.items()
    }
    assert all(len(cases) == 1 for cases in runs.values())
    said = {name: cases[0].find("skipped") for name, cases in runs.items()}
    skipped = {name for name, one in said.items() if one is not None}
    assert skipped == {"b-proved", "d-failed"}
    message = str(said["b-proved"].get("message"))  # type: ignore[union-attr]
    assert STOOD["not_run"] in message and STOOD["stand_in"] in message
    proved = found["b-proved"]
    counts = {key: proved.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "18", "failures": "0", "errors": "0", "skipped": "1"}
    assert root.get("skipped") == "2"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a-passed"], "PASS 1 of 1 artifacts passed: "),
        (["a-passed", "b-proved"], "PROVED 1 of 2 artifacts passed, 1 proved by what stands for"),
        (["b-proved", "c-failed"], "FAIL 0 of 2 artifacts passed, 1 proved by what stands for"),
    ],
)
def test_the_command_says_which(names: list[str], said: str, out: Path, tmp_path: Path) -> None:
    folders = [str(out / name) for name in names]
    done = CliRunner().invoke(app, ["report", *folders, "--out", str(tmp_path / "pages")])
    assert done.exit_code == 0 and done.output.startswith(said), done.output

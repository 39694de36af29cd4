"""The report of a real export: the page, the record, and the test cases for CI."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import VerdictRecord
from goldfold.exporter.cli.app import app
from goldfold.exporter.errors import ArtifactError, OutputError
from goldfold.exporter.records import read_json
from goldfold.exporter.report import Report, collect, write
from goldfold.exporter.report.junit import RUNS
from goldfold.exporter.report.page import page
from goldfold.exporter.report.schemas import SCHEMAS, text_of
from goldfold.golden import store

ROOT = Path(__file__).parents[3]


@pytest.fixture
def out(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with one good artifact, one that failed, and one that is damaged."""
    for target, path in artifacts.items():
        shutil.copytree(path, tmp_path / "out" / f"{target}-fp32")
    folder = tmp_path / "out"
    broken = folder / "openvino-fp32.failed"
    shutil.copytree(folder / "openvino-fp32", broken)
    verdict = json.loads((broken / bundle.VERDICT).read_text())
    row = verdict["measurement"]["rows"][2]
    row["alone"]["distance"], row["padded"]["distance"] = 0.25, "Infinity"
    verdict["drift"] = [
        {"after": "fold-norm-gain", "worst": 1e-12, "mean": 1e-13, "worst_id": "empty"},
        {"after": "set-precision", "worst": "Infinity", "mean": "Infinity", "worst_id": "empty"},
    ]
    verdict["status"] = "failed"
    verdict["reasons"] = [
        {"kind": "distance", "precision": "fp32", "text": row["id"], "way": "alone",
         "value": 0.25, "limit": 1e-8},
        {"kind": "unusable", "precision": "fp32", "text": row["id"], "way": "padded"},
        {"kind": "goldens", "note": "Similarities between texts (alone) are off by <b>."},
    ]  # fmt: skip
    (broken / bundle.VERDICT).write_text(json.dumps(verdict))
    damaged = folder / "coreml-fp32"
    shutil.copytree(folder / "onnxruntime-fp32", damaged)
    (damaged / "tokenizer.json").unlink()
    return folder


class Page(HTMLParser):
    """What a page would fetch, and whether its tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.circles = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.circles += tag == "circle"
        self.fetched += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.circles += tag == "circle"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


def test_export_leaves_a_report_beside_its_artifacts(artifacts: dict[str, Path]) -> None:
    place = artifacts["openvino"].parent
    assert {*bundle.REPORT} <= {path.name for path in place.iterdir()}
    report = read_json(Report, (place / "report.json").read_text("utf-8"))
    assert report.passed
    assert [a.folder for a in report.artifacts] == ["onnxruntime-fp32", "openvino-fp32"]
    for artifact in report.artifacts:
        assert artifact.judged is not None
        assert 0 < artifact.judged.larger < 1e-8
        verdict = read_json(VerdictRecord, (place / artifact.folder / bundle.VERDICT).read_bytes())
        assert artifact.judged.worst == verdict.measurement.worst
        assert len(artifact.texts) == len(verdict.measurement.rows) == 16
        assert len(artifact.pairs) == 16 * 15 // 2
        bundle.open_bundle(place / artifact.folder)  # the report is in no artifact's way


def test_folder_with_nothing_but_a_report_can_be_exported_into(tmp_path: Path) -> None:
    for name in bundle.REPORT:
        (tmp_path / name).write_text("old")
    bundle.check_output(tmp_path, ["openvino-fp32"], force=False)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        bundle.check_output(tmp_path, ["openvino-fp32"], force=False)


def test_verdict_comes_first_and_says_fail_if_anything_failed(out: Path) -> None:
    report = collect([out])
    states = {a.folder: a.state for a in report.artifacts}
    assert not report.passed
    assert states == {
        "coreml-fp32": "damaged",
        "onnxruntime-fp32": "passed",
        "openvino-fp32": "passed",
        "openvino-fp32.failed": "failed",
    }
    text = page(report)
    visible = re.sub(r"<[^>]+>", " ", text[text.index("<body>") :]).split()
    assert visible[0] == "FAIL"
    assert "2 of 4 artifacts" in text
    assert "tokenizer.json is missing" in text


def test_page_needs_nothing_but_itself(out: Path) -> None:
    text = page(collect([out]))
    seen = Page(text)
    assert not seen.open and not seen.fetched
    assert not re.search(r"https?://|@import|url\(|<script|<link", text)
    assert "prefers-color-scheme: dark" in text
    assert "off by &lt;b&gt;" in text  # what models and goldens say is not markup
    # Two artifacts × 16 texts × 2 ways, and 120 pairs each: less what was not finite.
    assert seen.circles >= 3 * (16 * 2 + 120) - 1


def test_same_artifacts_give_the_same_bytes(out: Path) -> None:
    first = [(write([out])[1].parent / name).read_bytes() for name in bundle.REPORT]
    assert first == [(write([out])[1].parent / name).read_bytes() for name in bundle.REPORT]
    assert [path.name for path in out.glob(".*")] == []


def test_golden_texts_are_test_cases(out: Path) -> None:
    write([out])
    root = ElementTree.parse(out / "junit.xml").getroot()
    suites = {suite.get("name"): suite for suite in root}
    ids = [case.id for case in store.load(out / "openvino-fp32" / bundle.GOLDEN).cases]
    good, bad = suites["openvino-fp32"], suites["openvino-fp32.failed"]
    assert [case.get("name") for case in good] == [*ids, "gate", RUNS]
    assert (good.get("tests"), good.get("failures"), good.get("errors")) == ("18", "0", "0")
    failed = {case.get("name"): case.findtext("failure") for case in bad if len(case) > 1 or
              case.find("failure") is not None}  # fmt: skip
    assert set(failed) == {ids[2], "gate"}
    assert "2.50e-01" in (failed[ids[2]] or "") and "not finite" in (failed[ids[2]] or "")
    assert failed["gate"] == "Similarities between texts (alone) are off by <b>."
    assert suites["coreml-fp32"].get("errors") == "1"
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("55", "2", "1")


def test_infinite_is_spelt_the_same_in_every_record(out: Path) -> None:
    write([out])
    record = json.loads(
        (out / "report.json").read_text("utf-8"), parse_constant=lambda name: pytest.fail(name)
    )
    failed = next(a for a in record["artifacts"] if a["state"] == "failed")
    text = failed["texts"][2]
    assert (text["alone"], text["padded"], text["worst"]) == (0.25, "Infinity", "Infinity")
    assert [step["worst"] for step in failed["drift"]] == [1e-12, "Infinity"]
    shown = page(collect([out]))
    assert "Drift after each pass" in shown and "after set-precision: worst not finite" in shown
    verdict = bundle.open_bundle(out / failed["folder"], unverified=True).verdict
    assert verdict is not None and verdict.drift[1].worst == float("inf")
    again = read_json(VerdictRecord, verdict.to_json())
    assert again == verdict  # an infinite drift does not make an artifact unreadable
    assert collect([out]).artifacts[3].ranked[0].id == text["id"]


def test_report_on_one_artifact_goes_beside_it(out: Path) -> None:
    report, written = write([out / "openvino-fp32"])
    assert written == (out / "report.html").resolve()
    assert len(report.artifacts) == 1
    with pytest.raises(OutputError, match="give another --out"):
        write([out], out / "openvino-fp32")


def test_folder_without_artifacts_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no artifact"):
        write([tmp_path])
    with pytest.raises(ArtifactError, match="holds no artifact"):
        write([tmp_path / "nowhere"])


def test_command_says_where_and_how_many(out: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(out), "--out", str(tmp_path / "pages")])
    assert done.exit_code == 0, done.output
    assert "FAIL 2 of 4 artifacts" in done.output
    assert {p.name for p in (tmp_path / "pages").iterdir()} == {*bundle.REPORT}


def test_published_schemas_are_current() -> None:
    for name, model in SCHEMAS.items():
        held = (ROOT / "docs" / "schema" / name).read_text("utf-8")
        assert held == text_of(model), f"docs/schema/{name} is stale: run make pages"


def test_files_keep_to_their_schemas(out: Path) -> None:
    write([out])
    files = {
        "report.schema.json": out / "report.json",
        "manifest.schema.json": out / "openvino-fp32" / bundle.MANIFEST,
    }
    for name, file in files.items():
        schema = json.loads((ROOT / "docs" / "schema" / name).read_text("utf-8"))
        _holds(json.loads(file.read_text("utf-8")), schema, schema, file.name)
        with pytest.raises(AssertionError, match="surprise"):
            _holds({"surprise": 1}, schema, schema, "top")


def _holds(value, schema, root, where) -> None:
    """The part of JSON Schema that msgspec writes for these records."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        faults = []
        for choice in schema["anyOf"]:
            try:
                return _holds(value, choice, root, where)
            except AssertionError as fault:
                faults.append(str(fault))
        raise AssertionError(f"{where}: {faults}")
    kinds = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
        "boolean": bool, "null": type(None),
    }  # fmt: skip
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), f"{where}: {value!r}"
    if "const" in schema:
        assert value == schema["const"], where
    if "enum" in schema:
        assert value in schema["enum"], where
    if isinstance(value, dict) and schema.get("type") == "object":
        named = schema.get("properties", {})
        further = schema.get("additionalProperties", True)
        unknown = value.keys() - named.keys()
        assert further is not False or not unknown, f"{where}: {unknown}"
        assert set(schema.get("required", ())) <= value.keys(), where
        for key, item in value.items():
            if key in named:
                _holds(item, named[key], root, f"{where}.{key}")
            elif isinstance(further, dict):
                _holds(item, further, root, f"{where}.{key}")
    if isinstance(value, list) and "items" in schema:
        first = schema.get("prefixItems", [])
        for index, item in enumerate(value):
            own = first[index] if index < len(first) else schema["items"]
            assert own is not False, f"{where}[{index}]"
            _holds(item, own, root, f"{where}[{index}]")
    return None

"""An artifact folder is whole or not there, says the same about the same, and believes nobody."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import (
    FileEntry,
    Manifest,
    Origin,
    VerdictRecord,
    open_bundle,
)
from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import ArtifactError, OutputError
from goldfold.exporter.records import Measured, PassReport, Reading, TextReading
from goldfold.golden.reasons import Reason

REPORT = PassReport(
    name="fold-norm-gain", equality="REAL", applied=2, refused=("layers.3: the sum reads it too",),
    nodes_before=9, nodes_after=7, parameters_before=100, parameters_after=90, seconds=0.25,
)  # fmt: skip
READING = Reading(distance=1e-12, norm_error=0.0, delta=1e-7)
FIELDS: dict[str, Any] = {
    "goldfold": "0.1.0",
    "target": "onnxruntime",
    "precision": "fp32",
    "contract": Contract(
        model="toy", dim=4, max_length=8, vocab_size=10, pad_id=0, normalized=True,
        prompts={"query": "q: ", "Ünïcode": "字: "},
    ),
    "origin": Origin(name="toy", fingerprint="f" * 64, digests={"a": "0" * 64}, licence="mit"),
    "versions": {"onnx": "1.20"},
    "passes": (REPORT,),
    "census": {"MatMul": 3},
    "attention": {"all": 1},
    "notes": ("traced with eager attention",),
}  # fmt: skip


MEASURED = Measured(
    model="toy", dim=4, normalized=True, worst=1e-12, worst_padded=1e-12, mean=1e-13,
    mean_padded=1e-13, worst_id="a", similarity_alone=1e-12, similarity_padded=1e-12,
    rows=(TextReading(id="a", tokens=3, alone=READING, padded=READING),),
)  # fmt: skip


def verdict(passed: bool) -> VerdictRecord:
    reasons = () if passed else (Reason("distance", "fp32", "a", "alone", 1.0, 1e-8),)
    return VerdictRecord(
        status="passed" if passed else "failed",
        reasons=reasons,
        precision="fp32",
        measurement=MEASURED,
        timings=(),
    )


def on(folder: Path, record: VerdictRecord) -> VerdictRecord:
    """The verdict as it is recorded: on the manifest in `folder`."""
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    return record.with_(manifest=digest)


def make(folder: Path, passed: bool | None = True, extra: str = "") -> Path:
    """A small sealed artifact; `passed` None leaves it without a verdict. `extra` makes another of
    it."""
    (folder / "golden").mkdir(parents=True)
    if extra:
        (folder / "extra.txt").write_text(extra)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "golden" / "golden.json").write_text("{}\n")
    (folder / "NOTICE — ü.txt").write_text("notice")
    bundle.seal(folder, FIELDS)
    if passed is not None:
        bundle.write_verdict(folder, verdict(passed))
    return folder


def reseal(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change manifest.json as somebody would who also knows how to correct its digest."""
    record = json.loads((folder / "manifest.json").read_bytes())
    del record["sha256"]
    change(record)
    body = json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1)
    digest = hashlib.sha256(body.encode()).hexdigest()
    raw = body[:-2] + f',\n "sha256": "{digest}"\n}}\n'
    (folder / "manifest.json").write_bytes(raw.encode())


def refuse(folder: Path, *culprits: str, **options: bool) -> None:
    with pytest.raises(ArtifactError) as caught:
        open_bundle(folder, **options)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    for culprit in (str(folder), *culprits):
        assert culprit in text


# --- sealing and opening


def test_what_is_sealed_is_what_is_opened(tmp_path: Path) -> None:
    opened = open_bundle(make(tmp_path / "a"))
    assert opened.name == "onnxruntime-fp32"
    assert opened.manifest.contract == FIELDS["contract"]
    assert opened.manifest.origin == FIELDS["origin"]
    assert opened.manifest.notes == FIELDS["notes"]
    assert set(opened.manifest.files) == {"model.onnx", "golden/golden.json", "NOTICE — ü.txt"}
    assert opened.manifest.files["model.onnx"] == FileEntry(
        sha256=hashlib.sha256(b"graph").hexdigest(), size=5
    )
    assert opened.size == len("graph") + len("{}\n") + len("notice")
    assert opened.verdict == on(opened.path, verdict(True))


def test_manifest_is_the_same_wherever_and_however_long(tmp_path: Path) -> None:
    slow = {**FIELDS, "passes": (REPORT.with_(seconds=99.0),)}
    first = make(tmp_path / "one")
    second = make(tmp_path / "deep" / "er", passed=None)
    (second / "manifest.json").unlink()
    bundle.seal(second, slow)
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()


def test_manifest_is_canonical_and_carries_its_own_digest(tmp_path: Path) -> None:
    raw = (make(tmp_path / "a") / "manifest.json").read_text("utf-8")
    record = json.loads(raw)
    assert list(record)[-1] == "sha256"
    assert "字" in raw
    given = record.pop("sha256")
    assert list(record) == sorted(record)
    assert all("seconds" not in report for report in record["passes"])
    body = json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1)
    assert hashlib.sha256(body.encode()).hexdigest() == given


def test_real_artifact_names_no_machine(artifacts: dict[str, Path], tiny: Path) -> None:
    host = socket.gethostname()
    traces = [str(tiny), str(tiny.parent.parent), str(Path(__file__).parents[2])]
    # Two letters would turn up in any megabyte of weights by chance.
    traces += [host] if len(host) > 5 else []
    for folder in artifacts.values():
        for path in folder.rglob("*"):
            if path.is_file() and path.name != "verdict.json":
                raw = path.read_bytes()
                assert not [trace for trace in traces if trace.encode() in raw], path


def test_read_manifest_survives_the_round_trip(artifacts: dict[str, Path]) -> None:
    for folder in artifacts.values():
        manifest = bundle.read_manifest(folder)
        assert isinstance(manifest, Manifest)
        assert manifest.to_bytes() == (folder / "manifest.json").read_bytes()


# --- gates


def test_artifact_that_missed_its_gate_opens_only_unverified(tmp_path: Path) -> None:
    missed, never = make(tmp_path / "a", passed=False), make(tmp_path / "b", passed=None)
    refuse(missed, "missed its golden gate", "goldfold verify")
    refuse(never, "was never verified")
    assert open_bundle(missed, unverified=True).verdict == on(missed, verdict(False))
    assert open_bundle(never, unverified=True).verdict is None


def test_name_failed_is_believed_even_if_the_verdict_is_rosy(tmp_path: Path) -> None:
    refuse(make(tmp_path / "x.failed", passed=True), "missed its golden gate")


# --- damage


def test_changed_missing_and_extra_files_are_named(tmp_path: Path) -> None:
    pristine = make(tmp_path / "pristine")
    for number, key in enumerate(bundle.read_manifest(pristine).files):
        changed = shutil.copytree(pristine, tmp_path / f"changed-{number}")
        raw = (changed / key).read_bytes()
        (changed / key).write_bytes(bytes([raw[0] ^ 1]) + raw[1:])
        refuse(changed, key, "has been changed")
        shorter = shutil.copytree(pristine, tmp_path / f"shorter-{number}")
        (shorter / key).write_bytes(raw[:-1])
        refuse(shorter, key, "wrong size", check_files=False)
        missing = shutil.copytree(pristine, tmp_path / f"missing-{number}")
        (missing / key).unlink()
        refuse(missing, key, "is missing")
    (pristine / "golden" / "more.txt").write_text("x")
    refuse(pristine, "golden/more.txt", "does not name")


def test_every_changed_byte_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    raw = (folder / "manifest.json").read_bytes()
    for place in range(0, len(raw), 7):
        (folder / "manifest.json").write_bytes(
            raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        )
        refuse(folder, "manifest.json")


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000,
        b'{"sha256": "0"}', b'{"sha256": "0", "passes": [1]}', b'{"sha256": "0", "passes": []}',
    ],
    ids=range(10),
)  # fmt: skip
def test_malformed_manifest_is_one_line(raw: bytes, tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / "manifest.json").write_bytes(raw)
    refuse(folder, "manifest.json is malformed")


def test_lone_surrogates_in_a_manifest_are_one_line(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    raw = (folder / "manifest.json").read_bytes().replace("字".encode(), b"\\ud800")
    (folder / "manifest.json").write_bytes(raw)
    refuse(folder, "manifest.json")


def test_manifest_that_is_absent_or_a_folder_is_one_line(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / "manifest.json").unlink()
    refuse(folder, "is not an artifact", "manifest.json")
    (folder / "manifest.json").mkdir()
    refuse(folder, "is not an artifact", "manifest.json")
    refuse(tmp_path / "nowhere", "no such folder")


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b'{"status": "maybe"}', b"[]"])
def test_malformed_verdict_is_one_line(raw: bytes, tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / "verdict.json").write_bytes(raw)
    refuse(folder, "verdict.json is malformed", unverified=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "proved"}, "status proved and stand_in '' do not agree"),
        ({"status": "proved", "stand_in": "a program"}, "stand_in and not_run stand together"),
        ({"stand_in": "a program", "not_run": "no GPU"}, "status passed and stand_in"),
        ({"reasons": [{"kind": "goldens"}]}, "beside reasons of a failure"),
        ({"status": "green"}, "green"),
    ],
)
def test_verdict_that_contradicts_itself_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "a")
    record = json.loads((folder / "verdict.json").read_text())
    (folder / "verdict.json").write_text(json.dumps(record | changes))
    refuse(folder, "verdict.json is malformed", said)


@pytest.mark.parametrize("key", ["status", "passed"])
def test_verdict_of_another_version_is_refused_by_that(key: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    record = json.loads((folder / "verdict.json").read_text())
    record[key] = record.pop("status")
    record["format"] = "goldfold.verdict/3"
    (folder / "verdict.json").write_text(json.dumps(record))
    refuse(folder, "another version of goldfold", "goldfold verify")


def test_proved_artifact_opens(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    proved = verdict(True).with_(status="proved", stand_in="a program", not_run="no GPU")
    bundle.write_verdict(folder, proved)
    assert open_bundle(folder).verdict == on(folder, proved)


def test_unknown_format_and_unknown_fields_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    reseal(folder, lambda record: record.update(format="goldfold.artifact/9"))
    refuse(folder, "format")
    folder = make(tmp_path / "b")
    reseal(folder, lambda record: record.update(surprise=1))
    refuse(folder, "surprise")


# --- tricks with paths


@pytest.mark.parametrize("key", ["../secret", "golden/../../secret", "/etc/hostname", "a/.."])
def test_manifest_that_names_files_outside_is_refused(key: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    folder = make(tmp_path / "a")
    digest = hashlib.sha256(b"s").hexdigest()
    reseal(folder, lambda r: r["files"].update({key: {"sha256": digest, "size": 1}}))
    refuse(folder, key, "outside the folder")


def test_link_with_the_right_content_is_a_file(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / "model.onnx").rename(tmp_path / "elsewhere")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere")
    assert open_bundle(folder).size == 14
    (tmp_path / "elsewhere").write_bytes(b"grape")
    refuse(folder, "model.onnx", "has been changed")


def test_links_that_lead_nowhere_or_to_folders_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("nowhere")
    refuse(folder, "model.onnx", "is missing")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(tmp_path)
    refuse(folder, "model.onnx", "is missing")


def test_linked_folder_does_not_hide_what_it_holds(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / "golden").rename(tmp_path / "goldens")
    (folder / "golden").symlink_to(tmp_path / "goldens")
    refuse(folder, "golden")


# --- the verdict


def test_verdict_is_replaced_whole(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", passed=False)
    bundle.write_verdict(folder, verdict(True))
    assert open_bundle(folder).verdict == on(folder, verdict(True))
    assert not list(folder.glob("*.new"))


def test_a_verdict_is_written_into_the_artifact_that_it_is_on(tmp_path: Path) -> None:
    """One that ends late may find another artifact in the place."""
    folder, other = make(tmp_path / "a"), make(tmp_path / "b", extra="another")
    record = open_bundle(folder).verdict
    assert record is not None
    with pytest.raises(OutputError, match="was replaced while it was measured"):
        bundle.write_verdict(other, record)
    assert open_bundle(other).verdict == on(other, verdict(True))


def test_what_a_killed_verification_left_is_cleared_by_a_later_one(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    old, young = (folder / f"verdict.json.{letter * 16}.new" for letter in "ab")
    for path in (old, young):
        path.write_text("{")
    os.utime(old, (1, 1))
    open_bundle(folder)  # neither is in its way
    bundle.write_verdict(folder, verdict(True))
    assert not old.exists() and young.exists()


@pytest.mark.parametrize(
    "odd",
    [
        {"versions": {"a": None}}, {"target": "a b"}, {"options": {"share": 0.5}},
        {"contract": FIELDS["contract"].with_(vocab_size=1 << 40)},
    ],
    ids=lambda odd: next(iter(odd)),
)  # fmt: skip
def test_what_no_reader_would_accept_is_not_sealed(odd: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(odd))):
        bundle.seal(tmp_path, FIELDS | odd)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("raw", ['["status", "measurement"]', '"status measurement"', "3"])
def test_a_verdict_that_is_no_object_is_one_line(raw: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / "verdict.json").write_text(raw)
    with pytest.raises(ArtifactError, match="malformed") as refused:
        open_bundle(folder)
    assert "\n" not in str(refused.value)

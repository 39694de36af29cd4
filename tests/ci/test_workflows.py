"""The workflows: their form, and the reusable one's export job run on a small real model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend import packaged
from tests.ci import workflow
from tests.docs.commands import wrong_with

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
EXPORT = workflow.read(FOLDER / "goldfold-export.yml")
FILES = sorted(FOLDER.glob("*.yml"))
OURS = {
    "make -C .goldfold setup",
    *(
        f"make -f .goldfold/Makefile ci-{x}"
        for x in ("export", "verify", "report", "summary", "device")
    ),
}


def steps(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in found["jobs"].values() for step in job.get("steps", ())]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_commit_and_makes_to_a_target(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for step in steps(workflow.read(path)):
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        else:
            assert step["run"].startswith("make ") and step["run"].split()[-1] in targets, step


def test_every_input_is_used_and_every_used_one_declared() -> None:
    text = (FOLDER / "goldfold-export.yml").read_text("utf-8")
    used = set(re.findall(r"inputs\.([\w-]+)", text))
    assert used == set(EXPORT["on"]["workflow_call"]["inputs"])
    assert {step["run"] for step in steps(EXPORT) if "run" in step} == OURS


def test_what_a_job_sets_is_what_make_is_to_read() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    variables = set(re.findall(r"^([A-Z]+) +[?:]?=", makefile, re.MULTILINE))
    assert {"PYTHON", "VENV", "MODEL"} <= variables
    asked = {"EXTRAS", "FILE", "MODEL", "REVISION", "TARGETS", "PRECISION", "OPTIONS", "OUT"}
    for job in EXPORT["jobs"].values():
        given = {*EXPORT["env"], *job["env"]}
        assert given & variables <= asked, "make would take this for its own"
    assert asked <= set(EXPORT["jobs"]["export"]["env"])


def test_devices_wait_for_the_export_and_take_its_artifact() -> None:
    jobs = EXPORT["jobs"]
    (uploaded,) = (s for s in jobs["export"]["steps"] if "upload" in s.get("uses", ""))
    assert jobs["mac"]["runs-on"].startswith("macos-") and jobs["gpu"]["runs-on"][1] == "gpu"
    for name in ("mac", "gpu"):
        assert jobs[name]["needs"] == "export"
        (taken,) = (s for s in jobs[name]["steps"] if "download" in s.get("uses", ""))
        assert taken["with"] == {key: uploaded["with"][key] for key in ("name", "path")}
        assert jobs[name]["env"]["OUT"].endswith("/" + uploaded["with"]["path"])


def test_our_own_workflow_calls_the_reusable_one_as_it_wants_to_be() -> None:
    call = workflow.read(FOLDER / "ci.yml")["jobs"]["export"]
    assert call["uses"] == "./.github/workflows/goldfold-export.yml"
    workflow.inputs(EXPORT, call["with"])


def test_expressions() -> None:
    values = {"inputs.a": "", "github.repository": "o/r"}
    assert workflow.substituted("x ${{ inputs.a || github.repository }}", values) == "x o/r"
    with pytest.raises(KeyError):
        workflow.substituted("${{ inputs.b }}", values)


# Run ----------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> dict[str, str]:
    """What the `uses:` steps and Install leave: goldfold in .goldfold, its programs in BIN."""
    (tmp_path / ".goldfold").symlink_to(ROOT)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, words in {"goldfold": "-m goldfold", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n', "utf-8")
        (programs / name).chmod(0o755)
    stamp = programs / "installed"
    stamp.touch()
    return {
        "MAKEFLAGS": f"BIN={programs} STAMP={stamp}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


def called(place: Path, **given: str) -> dict[str, Any]:
    return {
        **workflow.inputs(EXPORT, given),
        "github.workspace": str(place),
        "github.repository": "someone/theirs",
        "secrets.hf-token": "",
    }


def test_the_export_job_runs(tmp_path: Path, checkout: dict[str, str]) -> None:
    try:
        packaged.locate(packaged.MINILM)
    except ModelError as error:
        pytest.skip(str(error))
    values = called(tmp_path, model="packaged", targets="openvino", options="--max-length 64")
    done = workflow.run_job(EXPORT, "export", values, tmp_path, checkout)
    assert [one.name for one in done] == ["Install", "Export", "Verify", "Report", "Summary"]
    assert [one.code for one in done] == [0] * 5, "\n".join(one.output for one in done)
    out = tmp_path / "artifacts"
    assert (out / "openvino-fp32" / "manifest.json").is_file()
    assert "openvino-fp32" in (out / "report.html").read_text("utf-8")
    suite = ElementTree.parse(out / "junit.xml").getroot()
    assert suite.get("failures") == "0" and int(suite.get("tests") or 0) > 20
    # The device jobs' step, on what was handed on.
    values["inputs.targets"] = "openvino"
    device = {**EXPORT, "jobs": {"mac": {**EXPORT["jobs"]["mac"]}}}
    device["jobs"]["mac"]["env"] = {**EXPORT["jobs"]["mac"]["env"], "TARGETS": "openvino"}
    again = workflow.run_job(device, "mac", values, tmp_path, checkout)
    assert [one.code for one in again] == [0, 0], again[-1].output


def test_a_file_runs_as_a_pipeline(tiny: Path, tmp_path: Path, checkout: dict[str, str]) -> None:
    """The file asks for what cannot be built, so that the steps are run and nothing is traced."""
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    (tmp_path / "goldfold.toml").write_text('model = "model"\ntargets = ["onnxruntime"]\n')
    values = called(tmp_path, file="goldfold.toml")
    page = tmp_path / "summary.md"
    found = {**checkout, "GITHUB_STEP_SUMMARY": str(page)}
    done = workflow.run_job(EXPORT, "export", values, tmp_path, found)
    assert [one.code != 0 for one in done] == [False, True, False, False, False]
    assert "config.json" in done[1].output
    assert page.read_text("utf-8") == (tmp_path / "artifacts/verdict.md").read_text("utf-8")
    assert "config.json" in page.read_text("utf-8")


def test_the_cache_holds_what_a_run_leaves() -> None:
    (step,) = (s for s in EXPORT["jobs"]["export"]["steps"] if "cache@" in s.get("uses", ""))
    assert "artifacts" in step["with"]["path"].split()
    assert "${{ github.run_id }}" in step["with"]["key"]  # a cache is never written twice
    for line in step["with"]["restore-keys"].split("\n"):
        assert step["with"]["key"].startswith(line)


def test_the_gitlab_example_runs_commands_that_exist() -> None:
    found = workflow.read(ROOT / "docs" / "examples" / "gitlab-ci.yml")
    lines = [line for job in found.values() if isinstance(job, dict) for line in job["script"]]
    assert any(line.startswith("goldfold ci ") for line in lines)
    for line in lines:
        if line.startswith("goldfold "):
            assert wrong_with(line) is None, line


def test_a_missed_gate_fails_the_job_and_is_reported(
    tiny: Path, tmp_path: Path, checkout: dict[str, str]
) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "coarse.toml").write_text('gains = "fold"\n[weights]\nbits = 4\n')
    environment = {
        **os.environ, **checkout, "MODEL": "model", "TARGETS": "openvino",
        "PRECISION": "coarse.toml", "OPTIONS": "--no-locate --max-length 32", "OUT": "out",
    }  # fmt: skip
    done = subprocess.run(
        ["make", "-f", ".goldfold/Makefile", "ci"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr  # make's own word for "Error 1"
    assert "error: missed the golden gate" in done.stderr
    assert (tmp_path / "out" / "openvino-coarse.failed").is_dir()
    assert "FAIL" in (tmp_path / "out" / "report.html").read_text("utf-8")
    suite = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()
    assert int(suite.get("failures") or 0) > 0

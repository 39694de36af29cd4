"""`goldfold push`: what a repository of the hub then holds, against a server on the loopback
address (tests/hub_server.py)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants, snapshot_download

from goldfold.exporter.artifact import bundle, push
from goldfold.exporter.errors import ArtifactError, OutputError, UsageError
from goldfold.exporter.frontend import hub_push
from tests.exporter.cli.conftest import goldfold  # noqa: F401 — a fixture
from tests.exporter.cli.outcome import Run, flip, refused
from tests.hub_server import Hub, serving


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server speaks LFS alone
    with serving() as found:
        found.token = "secret"
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield found


@pytest.fixture
def folder(artifacts: dict[str, Path]) -> Path:
    return artifacts["onnxruntime"]


def test_a_pushed_artifact_opens_as_it_was(
    hub: Hub, folder: Path, goldfold: Run  # noqa: F811
) -> None:  # fmt: skip
    done = goldfold("push", folder, "org/made", "--base-model", "org/base", "--revision", "next")
    assert done.code == 0, done.err
    assert done.out.strip().endswith(f"org/made/commit/{'d' * 40}")
    (made,) = hub.created
    assert made["name"] == "made" and made.get("visibility") is None and not made.get("private")
    (commit,) = hub.commits
    assert commit["branch"] == "next" and "onnxruntime-fp32" in commit["message"]
    names = set(commit["files"])
    manifest = bundle.read_manifest(folder)
    inside = {*manifest.files, bundle.MANIFEST, bundle.VERDICT}
    assert names == {"README.md", *(f"onnxruntime-fp32/{key}" for key in inside)}
    taken = Path(snapshot_download("org/made", revision="next", local_dir=folder.parent / "taken"))
    try:
        opened = bundle.open_bundle(taken / "onnxruntime-fp32")
        assert opened.manifest == manifest
    finally:
        shutil.rmtree(taken)


def test_the_card_is_the_hubs_and_says_how_it_was_measured(folder: Path) -> None:
    upload = push.prepare([folder], "org/made", base="org/base")
    _, head, body = upload.card.split("---\n", 2)
    meta = yaml.safe_load(head)
    assert meta["library_name"] == "goldfold" and meta["base_model"] == "org/base"
    assert meta["tags"] == ["goldfold", "onnxruntime"]
    assert "| `onnxruntime-fp32` | onnxruntime | `fp32` |" in body and "| PASS |" in body
    assert 'snapshot_download("org/made", allow_patterns="onnxruntime-fp32/*")' in body


def test_several_lie_beside_each_other(artifacts: dict[str, Path]) -> None:
    upload = push.prepare(list(artifacts.values()), "org/made")
    tops = {key.partition("/")[0] for key in upload.files}
    assert tops == {path.name for path in artifacts.values()}
    with pytest.raises(UsageError, match="two artifacts are called"):
        push.prepare([artifacts["openvino"]] * 2, "org/made")


def test_a_dry_run_sends_nothing(hub: Hub, folder: Path, goldfold: Run) -> None:  # noqa: F811
    done = goldfold("push", folder, "org/made", "--dry-run")
    assert done.code == 0 and "onnxruntime-fp32/manifest.json" in done.out
    assert "library_name" in done.out and not hub.asked


def test_what_is_no_good_artifact_is_not_pushed(
    hub: Hub, folder: Path, tmp_path: Path, goldfold: Run  # noqa: F811
) -> None:  # fmt: skip
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    flip(damaged / "tokenizer.json")
    refused(goldfold("push", damaged, "org/made"), ArtifactError.code, "tokenizer.json")
    refused(goldfold("push", tmp_path / "none", "org/made"), ArtifactError.code, "none")
    refused(goldfold("push", "org/made"), UsageError.code, "at least one artifact")
    for wrong in ("made", "a/b/c", "../x/y", "org/na me", "org/a--b"):
        refused(goldfold("push", folder, wrong), UsageError.code, "org/name")
    refused(goldfold("push", folder, "org/made", "--revision", "-x"), UsageError.code, "branch")
    assert not hub.asked


@pytest.mark.parametrize("gated", [False, True])
def test_a_refusal_is_one_line_and_leaves_no_commit(
    hub: Hub, folder: Path, gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret" if gated else "other")
    hub.gated = gated
    with pytest.raises(OutputError, match="log in with one that may") as found:
        hub_push.push(push.prepare([folder], "org/made"))
    assert "\n" not in str(found.value) and "secret" not in str(found.value)
    assert not hub.commits


def test_nonsense_is_one_line(hub: Hub, folder: Path) -> None:
    upload = push.prepare([folder], "org/made")
    for answer in (b"<html>", b"[]", b""):
        hub.nonsense = answer
        with pytest.raises(OutputError, match="whole or not at all") as found:
            hub_push.push(upload)
        assert "\n" not in str(found.value)

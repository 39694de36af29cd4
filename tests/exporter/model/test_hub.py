"""Models from the hub: its client against a server on the loopback address (tests/hub_server.py),
with a connection that breaks, wrong content, refusals and nonsense."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from goldfold.exporter.driver.request import at_revision
from goldfold.exporter.errors import ModelError, UsageError
from goldfold.exporter.frontend import hub as client
from goldfold.exporter.frontend.source import open_model
from tests.hub_server import Hub, serving

ROOT = Path(__file__).parents[3]


FILES = {"config.json": b'{"a": 1}\n', "model.safetensors": bytes(range(250)) * 40}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(client, "_WAITS", (0.0, 0.0))
    with serving() as found:
        found.files |= FILES
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield found


def refuse(words: tuple[str, ...], model: str = "org/tiny") -> str:
    with pytest.raises(ModelError) as found:
        client.fetch(*model.partition("@")[:1], False, model.partition("@")[2] or None)
    said = str(found.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said
    return said


def downloaded(hub: Hub) -> list[str]:
    return [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]


def leftovers(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "hub").rglob("*.incomplete")]


def test_a_model_is_pulled_by_id_and_revision(hub: Hub) -> None:
    folder = client.fetch("org/tiny", False, "v1")
    assert {key: (folder / key).read_bytes() for key in FILES} == FILES
    assert any("/revision/v1" in path for _, path, _ in hub.asked)
    assert len(downloaded(hub)) == 2
    # A commit that is in the cache is not asked for again.
    del hub.asked[:]
    assert client.fetch("org/tiny", False, hub.commit) == folder
    assert not downloaded(hub)
    refuse(("org/tiny has no revision 'v9'", "commit, tag or branch"), "org/tiny@v9")
    refuse(("org/other", "no such model"), "org/other")


def test_a_pulled_model_is_the_folders(hub: Hub, tiny: Path) -> None:
    hub.files.clear()
    for path in (path for path in tiny.rglob("*") if path.is_file()):
        hub.files[path.relative_to(tiny).as_posix()] = path.read_bytes()
    source = open_model("org/tiny@v1")
    assert source.name == "tiny" and source.fingerprint == open_model(tiny).fingerprint


def test_the_commands_variable_is_the_clients(hub: Hub, tmp_path: Path) -> None:
    code = "from goldfold.exporter.frontend.hub import fetch; print(fetch('org/tiny', False))"
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "home") in done.stdout


@pytest.mark.parametrize("stall", [0.0, 0.6], ids=["broken", "silent"])
def test_a_download_that_stops_goes_on_where_it_was(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stall: float
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # what was read less of is lost
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.cut, hub.stall = 1000, stall
    folder = client.fetch("org/tiny", False)
    assert [asked for _, _, asked in hub.asked if asked] == ["bytes=1000-"]
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not leftovers(tmp_path)


def test_a_busy_hub_is_asked_again(hub: Hub) -> None:
    hub.busy = 1
    client.fetch("org/tiny", False)


def test_a_hub_that_stays_busy_is_named(hub: Hub) -> None:
    hub.busy = 10_000
    refuse(("org/tiny", "503", "the network"))


@pytest.mark.parametrize("key", ["model.safetensors", "config.json"])
def test_other_content_is_refused_and_not_kept(hub: Hub, key: str, tmp_path: Path) -> None:
    hub.wrong = key
    said = refuse((key, "not the file that the hub names", "removed from the cache"))
    kept = [path for path in (tmp_path / "hub").rglob("*") if path.name == key]
    assert not kept and not leftovers(tmp_path)
    assert hub.oid(hub.files[key])[:16] in said
    hub.wrong = ""
    client.fetch("org/tiny", False)


def test_a_wrong_length_is_refused_and_nothing_is_half_written(hub: Hub, tmp_path: Path) -> None:
    hub.longer = "model.safetensors"
    refuse(("org/tiny", "should be of size"))
    assert not leftovers(tmp_path)
    assert not list((tmp_path / "hub").rglob("model.safetensors"))


def test_a_gated_model_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated, hub.token = True, "secret"
    refuse(("org/tiny is gated", "accept its terms", "hf auth login", "HF_TOKEN"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    said = refuse(("org/tiny is gated",))
    assert "secret" not in said


def test_a_private_model_needs_a_login(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "secret"
    refuse(("no such model for this account (401)", "hf auth login"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    client.fetch("org/tiny", False)


@pytest.mark.parametrize(
    "answer",
    [b"<html>Log in to the hotel's network</html>", b'{"id": "org/ti', b"[]", b"null", b""],
)
def test_nonsense_is_one_line(hub: Hub, answer: bytes) -> None:
    hub.nonsense = answer
    refuse(("org/tiny", "did not give a model"))


def test_a_hub_that_is_not_there_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    refuse(("org/tiny", "the network"))


def test_a_revision_is_of_a_hub_id(tmp_path: Path) -> None:
    assert at_revision("org/name", "main") == "org/name@main"
    assert at_revision("anything", None) == "anything"
    for model, revision in ((str(tmp_path), "main"), ("a/b@c", "d"), ("a/b", "../x"), ("a/b", "")):
        with pytest.raises(UsageError):
            at_revision(model, revision)

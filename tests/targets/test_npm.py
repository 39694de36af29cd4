"""npm's packages: where they are looked for, what is refused, and what is said without npm or a
network. And what the layout for browsers refuses before it needs them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.contract import Contract, Frame
from goldfold.exporter.errors import TargetError
from goldfold.targets.onnxruntime import npm, web


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No packages are installed, and a cache of the test's own."""
    monkeypatch.delenv(npm.VARIABLE, raising=False)
    monkeypatch.setenv("GOLDFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def install(folder: Path, **versions: str) -> Path:
    """A node_modules folder with the packages' descriptions alone."""
    for name, version in (npm.pinned() | versions).items():
        (folder / name).mkdir(parents=True)
        (folder / name / "package.json").write_text(json.dumps({"version": version}))
    return folder


def test_the_lock_pins_every_package_by_its_digest() -> None:
    lock = json.loads((npm.PAGE / "package-lock.json").read_text("utf-8"))
    packages = {name: one for name, one in lock["packages"].items() if name}
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
    for name, version in npm.pinned().items():
        assert packages[f"node_modules/{name}"]["version"] == version
    assert lock["packages"][""]["dependencies"] == npm.pinned()


def test_the_named_folder_comes_first_then_the_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(Path("node_modules"))
    assert npm.modules() == Path("node_modules")
    named = install(tmp_path / "named")
    monkeypatch.setenv(npm.VARIABLE, str(named))
    assert npm.modules() == named


def test_a_named_folder_with_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        npm.VARIABLE, str(install(tmp_path / "old", **{"onnxruntime-web": "1.22.0"}))
    )
    with pytest.raises(TargetError, match=r"holds onnxruntime-web 1\.22\.0, and the page is made"):
        npm.modules()
    monkeypatch.setenv(npm.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(TargetError, match="holds no package @huggingface/tokenizers; install Node"):
        npm.modules()


def test_without_npm_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TargetError, match=r"npm is not installed.*--node-modules or GOLDFOLD_NODE"):
        npm.modules()


def test_without_a_cache_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDFOLD_CACHE", "")
    with pytest.raises(TargetError, match="there is no cache folder to install npm's packages in"):
        npm.modules()


def test_without_a_network_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    with pytest.raises(TargetError, match=r"npm ci failed \(.*is the registry within reach\?"):
        npm.modules()
    assert list((tmp_path / "cache").iterdir()) == []


def test_npm_installs_what_the_lock_says(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    try:
        found = npm.modules()
    except TargetError as error:
        pytest.skip(str(error))
    assert found.is_relative_to(tmp_path / "cache")
    assert (found / "onnxruntime-web" / "dist" / "ort-wasm-simd-threaded.wasm").is_file()
    assert npm.modules() == found
    (found / "onnxruntime-web" / "package.json").write_text("{}")  # damaged: it is made anew
    assert npm.modules() == found
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [found.parent.name]


# --- what the layout refuses


@pytest.fixture
def opened(artifacts: dict[str, Path]) -> tuple[Path, Contract]:
    found = open_bundle(artifacts["onnxruntime"])
    return found.path, found.manifest.contract


def test_other_tasks_and_frames_are_refused(opened: tuple[Path, Contract], tmp_path: Path) -> None:
    folder, contract = opened
    with pytest.raises(TargetError, match="gives sparse, and the page ranks by embeddings"):
        web.lay_out(folder, contract.with_(task="sparse"), tmp_path)
    framed = contract.with_(frame=Frame(before="<", between="", after=">"))
    with pytest.raises(TargetError, match="puts texts into a chat template"):
        web.lay_out(folder, framed, tmp_path)


def test_a_file_over_2_gb_is_refused(opened: tuple[Path, Contract], tmp_path: Path) -> None:
    folder, contract = opened
    large = Path(shutil.copytree(folder, tmp_path / "large"))
    os.truncate(large / "model.onnx.data", web.LIMIT + 1)  # a hole, which takes no room on the disk
    with pytest.raises(TargetError, match=r"model\.onnx\.data has 2\.1 GB, and a browser holds no"):
        web.lay_out(large, contract, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_runtime_file_is_named(opened: tuple[Path, Contract], tmp_path: Path) -> None:
    install(Path("node_modules"))
    (tmp_path / "out").mkdir()
    with pytest.raises(TargetError, match=r"ort-wasm-simd-threaded\S* is missing: install npm's"):
        web.lay_out(*opened, tmp_path / "out")

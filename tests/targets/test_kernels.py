"""The kernels that OpenVINO compiles are those that were kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.targets import kernels


def check(folder: Path) -> None:
    """Compare an artifact's kernels with the kept ones; skips where none were kept for it."""
    name, kept = kernels.key(folder), kernels.kept()
    if name not in kept:
        pytest.skip(f"no kernels kept for {name}: python -m tests.targets.kernels {folder}")
    changed = kernels.difference(kept[name], kernels.counted(folder))
    assert not changed, f"kernels of {name}: {'; '.join(changed)}"


def test_kernels_of_the_tiny_gemma(artifacts: dict[str, Path]) -> None:
    check(artifacts["openvino"])


def test_a_change_is_shown() -> None:
    before, after = {"RMS": 145, "RoPE": 48}, {"RMS": 105, "Reduce": 40, "RoPE": 48}
    assert kernels.difference(before, after) == ["RMS: 145 -> 105", "Reduce: 0 -> 40"]


def test_something_is_kept_for_every_model_that_ci_exports() -> None:
    models = {name.split()[0] for name in kernels.kept()}
    assert models == {"tiny-gemma3", "embeddinggemma-300m"}

"""Where NVIDIA's compiler is not installed, these tests are skipped, and say so."""

from __future__ import annotations

import pytest

from goldfold.targets.tensorrt import vendor


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = None if vendor.builder() else "neither tensorrt_rtx nor tensorrt is installed"
    for item in items:
        if "targets/tensorrt" in item.nodeid and reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))

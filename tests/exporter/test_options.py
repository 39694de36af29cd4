"""What is asked of targets: given to those it means something to, and refused where to none."""

from __future__ import annotations

from pathlib import Path

import pytest

from goldfold.exporter.errors import UsageError
from goldfold.exporter.options import Options, check_taken, described, own
from goldfold.targets.coreml.options import CoreMlOptions
from goldfold.targets.openvino.options import OpenVinoOptions
from goldfold.targets.tensorrt.options import TensorRtOptions
from tests.exporter.cli.conftest import goldfold  # noqa: F401 — the fixture
from tests.exporter.cli.outcome import Run, refused

ASKED = {"buckets": [128], "compute_capability": ("sm86",)}


def test_each_target_sees_what_it_takes() -> None:
    assert own(CoreMlOptions, ASKED) == CoreMlOptions(buckets=(128,))
    assert own(TensorRtOptions, ASKED) == TensorRtOptions(compute_capability=("sm86",))
    assert own(Options, ASKED) == Options()
    assert own(OpenVinoOptions, CoreMlOptions(buckets=(8,), flexible=True)).given() == {
        "buckets": (8,)
    }


def test_what_no_target_takes_is_refused() -> None:
    kinds = {"coreml": CoreMlOptions, "tensorrt": TensorRtOptions}
    check_taken(ASKED, kinds)
    with pytest.raises(UsageError, match="--compute-capability has no meaning for coreml; leave"):
        check_taken(ASKED, {"coreml": CoreMlOptions})
    with pytest.raises(UsageError, match="--bukets has no meaning for coreml, tensorrt"):
        check_taken({"bukets": (128,)}, kinds)


def test_a_value_of_another_type_is_a_line_that_names_the_flag() -> None:
    with pytest.raises(UsageError, match="--buckets: Expected int, got str"):
        own(CoreMlOptions, {"buckets": ("128",)})
    with pytest.raises(UsageError, match="--minimum-target"):
        own(CoreMlOptions, {"minimum_target": 18})


def test_an_option_says_who_takes_it() -> None:
    found = described({"openvino": OpenVinoOptions, "coreml": CoreMlOptions})
    assert found["buckets"][0] == tuple[int, ...]
    assert found["buckets"][1].startswith("coreml, openvino: static lengths")
    assert found["batch"][1].startswith("openvino: texts per call")


@pytest.mark.parametrize("text", ["", ",", "128;512", "-128", "12e3", "all"])
def test_buckets_that_are_no_numbers_are_refused(
    text: str,
    goldfold: Run,  # noqa: F811
    tmp_path: Path,
) -> None:
    outcome = goldfold("export", tmp_path, "--buckets", text, "--out", tmp_path / "out")
    refused(outcome, 2, "--buckets", "no list of numbers such as 128,512")


def test_an_option_that_means_nothing_is_refused_before_the_model_is_opened(
    goldfold: Run,  # noqa: F811
    tmp_path: Path,
) -> None:
    asked = ("--target", "onnxruntime", "--profile", "1x1:1x1:1x1")
    outcome = goldfold("export", tmp_path / "nowhere", *asked, "--out", tmp_path / "out")
    refused(outcome, 2, "--profile has no meaning for onnxruntime")

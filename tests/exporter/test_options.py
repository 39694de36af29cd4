"""What is asked of targets: given to those it means something to, and refused where to none."""

from __future__ import annotations

from pathlib import Path

import pytest

from goldfold.exporter.errors import UsageError
from goldfold.exporter.options import NOTHING_ASKED, BuildOptions, check_taken
from goldfold.exporter.records import read
from tests.exporter.cli.conftest import goldfold  # noqa: F401 — the fixture
from tests.exporter.cli.outcome import Run, refused

ASKED = BuildOptions(buckets=(128,), compute_capability=("sm86",))


def test_each_target_sees_what_it_takes() -> None:
    assert ASKED.asked() == ("buckets", "compute_capability")
    assert ASKED.only(("buckets", "flexible")) == BuildOptions(buckets=(128,))
    assert ASKED.only(()) == NOTHING_ASKED
    assert NOTHING_ASKED.asked() == ()


def test_what_no_target_takes_is_refused() -> None:
    takes = {"one": ("buckets",), "two": ("compute_capability",)}
    check_taken(ASKED, takes)
    with pytest.raises(UsageError, match="--compute-capability says nothing to one; leave it out"):
        check_taken(ASKED, {"one": ("buckets",)})


def test_options_are_as_they_are_named() -> None:
    with pytest.raises(ValueError):
        read(BuildOptions, {"bukets": (128,)})


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
    refused(outcome, 2, "--profile says nothing to onnxruntime")

"""Records: read as strictly as a stranger's file deserves, and written so that they come back."""

from __future__ import annotations

import json
import math

import pytest

from goldfold.exporter import records
from goldfold.exporter.artifact.manifest import FileEntry, VerdictRecord
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.records import INFINITE, Look, Losses, Speed, finite, read, read_json
from goldfold.golden.gate import GATES
from goldfold.golden.reasons import Reason

LOOK = Look(after="fold-norm-gain", worst=math.inf, mean=1e-9, worst_id="a")


def test_what_is_not_finite_comes_back() -> None:
    text = LOOK.to_json()
    assert json.loads(text, parse_constant=pytest.fail)["worst"] == INFINITE
    assert read_json(Look, text) == LOOK


@pytest.mark.parametrize(
    ("kind", "found", "says"),
    [
        (Look, {"after": "x", "worst": 1, "mean": 1}, "worst_id: it is missing"),
        (Look, {**LOOK.plain(), "colour": "red"}, "colour: there is no such field"),
        (Look, {**LOOK.plain(), "worst": "big"}, "worst: it is neither a number nor"),
        (Look, {**LOOK.plain(), "worst": True}, "worst: it is neither a number nor"),
        (Look, {**LOOK.plain(), "after": 3}, "after: Expected str, got int"),
        (FileEntry, {"sha256": "0" * 64, "size": -1}, "size: Expected int >= 0"),
        (FileEntry, {"sha256": "x", "size": 1}, "sha256: Expected str matching regex"),
        (Recipe, {"name": "x", "weights": {"bits": 3}}, "weights.bits: 3 is none of 0, 4, 5, 6"),
        (Recipe, {"name": "x", "gains": "all"}, "'all' is none of fold, keep, balance"),
        (Speed, {"shapes": [{"batch": 1}]}, r"shapes\[0\].tokens: it is missing"),
        (Losses, [], "Expected object, got array"),
    ],
)
def test_what_does_not_fit_is_a_line_that_names_its_place(kind, found, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        read(kind, found)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "[" * 100_000, "{", ""])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        records.parse(text)


def test_numbers_of_other_kinds_are_written_as_numbers() -> None:
    np = pytest.importorskip("numpy")
    look = LOOK.with_(worst=np.float64(0.5), mean=np.float32(0.25))
    assert json.loads(look.to_json())["worst"] == 0.5
    assert finite({"a": [math.nan, (1, -math.inf)]}) == {"a": [INFINITE, [1, INFINITE]]}


@pytest.mark.parametrize("kind", ["distance", "norm", "mean", "similarity"])
def test_a_reason_over_a_limit_has_one(kind) -> None:
    with pytest.raises(ValueError, match="has a limit"):
        Reason(kind, "fp32", "a", "alone", 1.0)


def test_only_numbers_are_made_plain() -> None:
    np = pytest.importorskip("numpy")
    entry = FileEntry(sha256="0" * 64, size=np.int64(3))
    assert entry.plain() == {"sha256": "0" * 64, "size": 3} and type(entry.plain()["size"]) is int
    with pytest.raises(TypeError, match="no record holds a complex"):
        FileEntry(sha256="0" * 64, size=1j).plain()  # type: ignore[arg-type]


def test_a_record_does_not_change() -> None:
    with pytest.raises(AttributeError):
        LOOK.worst = 0.0  # type: ignore[misc]
    assert LOOK.with_(worst_id="b").worst_id == "b" and LOOK.worst_id == "a"


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        (
            Reason("distance", "fp32", "a", "alone", 2.5e-1, GATES["fp32"].worst),
            "1-cos of a (alone) is 2.50e-01, over the fp32 limit of 1e-08.",
        ),
        (
            Reason("mean", "int8", way="padded", limit=1e-3, emulated=True),
            "Emulated: The mean 1-cos (padded) is not finite, over the int8 limit of 1e-03.",
        ),
        (
            Reason("unusable", "fp16", "a", "padded", head="sentence_embedding_8", emulated=True),
            "sentence_embedding_8 emulated: The embedding of a (padded) is not finite, or zero.",
        ),
    ],
)
def test_a_sentence_is_made_of_what_a_reason_holds(reason: Reason, sentence: str) -> None:
    assert reason.sentence == sentence


def test_reasons_travel_as_records() -> None:
    reason = Reason("norm", "fp16", "a", "alone", 0.5, 0.25, note="x", emulated=True)
    figures = {
        "model": "m", "dim": 2, "normalized": True, "worst_id": "a",
        **dict.fromkeys(("worst", "worst_padded", "mean", "mean_padded"), 1.0),
        **dict.fromkeys(("similarity_alone", "similarity_padded"), 1.0),
    }  # fmt: skip
    record = read(
        VerdictRecord,
        {
            "status": "failed",
            "precision": "fp16",
            "measurement": {**figures, "rows": []},
            "timings": [],
            "reasons": [finite(records.msgspec.to_builtins(reason))],
        },
    )
    assert record.reasons == (reason,)
    assert read_json(VerdictRecord, record.to_json()) == record

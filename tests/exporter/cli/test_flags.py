"""`flagged`: the fields of a dataclass are flags, in place and in order."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import typer

from goldfold.exporter import registry
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.cli import results, target_flags
from goldfold.exporter.cli.export import ExportFlags
from goldfold.exporter.cli.flags import flagged
from goldfold.golden import gate
from goldfold.golden.compare import Measurement
from goldfold.golden.reasons import Reason

Loud = Annotated[bool, typer.Option("--loud", "-l", help="Louder.")]


@dataclass(frozen=True)
class Inner:
    size: Annotated[int | None, typer.Option(min=1)] = None


@dataclass(frozen=True)
class Outer:
    first: Annotated[str, typer.Option(help="Needed.")]
    names: Annotated[list[str], typer.Option()] = field(default_factory=lambda: ["a"])
    inner: Inner = field(default_factory=Inner)
    loud: Loud = False


def run(*words: str) -> tuple[str, Outer]:
    """What a command with these flags is called with."""
    given: list[tuple[str, Outer]] = []

    def command(place: Annotated[str, typer.Argument()], asked: Outer) -> None:
        """Do it."""
        given.append((place, asked))

    app = typer.Typer(add_completion=False)
    app.command()(flagged(command))
    app(list(words), standalone_mode=False)
    return given[0]


def test_fields_become_flags_in_place_and_in_order() -> None:
    def command(place: str, asked: Outer, last: bool = True) -> None:
        """Do it."""

    made = flagged(command)
    assert (made.__name__, made.__doc__) == ("command", "Do it.")
    given = signature(made).parameters
    assert list(given) == ["place", "first", "names", "size", "loud", "last"]
    assert given["names"].default == ["a"]
    assert given["first"].default is given["first"].empty
    assert given["loud"].annotation == Loud
    assert given["last"].default is True


def test_what_is_typed_arrives_in_the_dataclass() -> None:
    assert run("here", "--first", "x") == ("here", Outer("x"))
    words = ("here", "--first", "x", "--names", "b", "--names", "c", "--size", "3", "-l")
    assert run(*words) == ("here", Outer("x", ["b", "c"], Inner(3), True))


@pytest.mark.parametrize("words", [("here",), ("here", "--first", "x", "--size", "0")])
def test_what_typer_refuses_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(Exception) as caught:
        run(*words)
    assert getattr(caught.value, "exit_code", None) == 2


# --- options of targets


def test_a_zero_is_asked_for_and_nothing_is_not() -> None:
    flags = target_flags.TargetFlags(batch=0, buckets="8,16", compatible=["version"])  # type: ignore[call-arg]
    assert flags.given() == {"batch": 0, "buckets": (8, 16), "compatible": ("version",)}
    assert target_flags.TargetFlags().given() == {}


def test_a_target_s_option_takes_no_flag_of_ours() -> None:
    own = {one.name for one in fields(ExportFlags)} - {"build"} | {"model"}
    assert own == target_flags.OURS


def test_a_target_that_does_not_load_takes_no_other_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = registry.target

    def target(name: str) -> object:
        if name == "odd":
            raise ImportError("no module of the vendor\nand a second line")
        return known(name)

    monkeypatch.setattr(registry, "target", target)
    monkeypatch.setattr(target_flags, "_names", lambda: ["odd", "openvino"])
    assert [one.name for one in fields(target_flags._made())] == ["batch", "buckets"]
    said = capsys.readouterr().err.splitlines()
    assert said == ["warning: target odd does not load: ImportError: no module of the vendor"]


def test_figures_that_are_not_finite_are_json() -> None:
    measurement = Measurement("m", 2, True, (), math.inf, math.inf)
    contract = SimpleNamespace(task="embedding", max_length=9)
    manifest = SimpleNamespace(target="t", precision="fp32", contract=contract)
    opened = SimpleNamespace(manifest=manifest, size=1, verdict=None)
    verdict = gate.Verdict((Reason("unusable", "fp32", "a", "alone"),))
    result: Any = Result(Path("x"), opened, measurement, verdict, 1.0)  # type: ignore[arg-type]
    found = json.loads(json.dumps(results._entry(result), allow_nan=False))
    assert found["measurement"]["worst"] == "Infinity" and not found["passed"]

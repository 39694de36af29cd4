"""`flagged`: the fields of a dataclass are flags, in place and in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from typing import Annotated

import pytest
import typer

from goldfold.exporter.cli.flags import flagged

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

"""Sides take turns, in another order each round, and say how long every call took."""

from __future__ import annotations

import os

import pytest

from goldfold.exporter.system import clock


def test_sides_take_turns_and_begin_with_an_untimed_call() -> None:
    asked: list[tuple[str, int, int]] = []

    def side(name: str, takes: float) -> clock.Side:
        def answer(warm: int, calls: int) -> list[float]:
            asked.append((name, warm, calls))
            return [takes] * calls

        return answer

    found = clock.in_turn([side("a", 10.0), side("b", 400.0)], rounds=2, seconds=0.1, long=300.0)
    assert found == [[10.0] * 10, [400.0] * 2]
    first = [("a", 1, 1), ("b", 1, 1)]  # how long a call takes
    turns = [("a", 1, 5), ("b", 0, 1), ("b", 0, 1), ("a", 1, 5)]
    assert asked == first + turns
    assert clock.in_turn([], 3, 1.0) == []


def test_calls_are_timed_so_often_and_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(ticks))
    called: list[None] = []
    assert clock.timed(lambda: called.append(None), warm=2, calls=3) == [1e3] * 3
    assert len(called) == 5
    assert len(clock.timed(lambda: None, warm=0, calls=1, seconds=10)) > 1


def test_a_share_is_of_all_processors_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    share = clock.Others().share([os.getpid()])
    assert share is None or 0 <= share <= 1
    monkeypatch.setattr(clock, "_busy", lambda: None)
    assert clock.Others().share() is None

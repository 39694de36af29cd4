"""The bisection: the first number that does not hold, and no more questions than halving takes."""

from __future__ import annotations

import pytest

from goldfold.exporter.diagnose.halving import first_wrong


@pytest.mark.parametrize("end", [1, 2, 3, 10, 33])
def test_every_place_is_found_by_few_questions(end: int) -> None:
    for wrong in range(1, end + 1):
        asked: list[int] = []

        def holds(number: int, wrong: int = wrong, asked: list[int] = asked) -> bool:
            asked.append(number)
            return number < wrong

        assert first_wrong(0, end, holds) == wrong
        assert all(0 < number < end for number in asked)
        assert len(asked) <= (end - 1).bit_length()

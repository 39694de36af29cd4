"""Private texts: an artifact's goldens hold digests of them, by which they are found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from goldfold.golden import store, withheld
from goldfold.golden.compare import TokenFault
from goldfold.golden.errors import GoldenError
from goldfold.golden.store import Case, Goldens
from tests.golden.golden_toys import goldens_of


def private() -> Goldens:
    toy = goldens_of(np.eye(4, 8) + 0.1)
    secret = tuple(replace(case, private=at > 1) for at, case in enumerate(toy.cases))
    return replace(toy, cases=secret)


def tokenize(texts: list[str], call: str) -> list[list[int]]:
    number = int(texts[0].split()[-1])
    return [[number + 1] * (number + 1)]


def test_a_private_text_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(GoldenError, match="a private text is not written"):
        store.save(private(), tmp_path / "golden")
    assert not (tmp_path / "golden").exists()
    store.save(private().public(), tmp_path / "golden")
    assert [case.id for case in store.load(tmp_path / "golden").cases] == ["text-0", "text-1"]


def test_digests_travel_and_find_their_texts(tmp_path: Path) -> None:
    goldens = private()
    kept = withheld.withheld(goldens)
    assert kept is not None and withheld.withheld(goldens.public()) is None
    store.save(kept, tmp_path / "private")
    raw = (tmp_path / "private" / "golden.json").read_text()
    assert "words" not in raw and "3 3 3" not in raw
    read = store.load(tmp_path / "private")
    asked = [replace(case, token_ids=()) for case in goldens.cases]
    found, reasons, ids = withheld.found(read, asked, tokenize)
    assert not reasons and ids == {"text-2", "text-3"}
    assert found.cases == goldens.cases[2:]
    assert np.array_equal(found.embeddings, goldens.embeddings[2:])


def test_other_texts_other_prompts_and_other_tokens_are_told_apart() -> None:
    kept = withheld.withheld(private())
    assert kept is not None
    case = private().cases[3]
    others = [
        replace(case, text=case.text.strip()),
        replace(case, prompt=""),
        Case("x", "x", "x", "x", ()),
    ]
    assert withheld.found(kept, others, tokenize)[2] == set()
    found, (reason,), ids = withheld.found(kept, [case], lambda texts, call: [[9, 9, 9, 9]])
    assert ids == {case.id} and not found.cases
    assert reason.sentence.startswith(f"The tokens of {case.id} differ from those of the export")


def test_no_token_of_a_private_text_is_told() -> None:
    faults = [TokenFault(f"text-{n}", 1, (5, 6), (7,)) for n in range(4)]
    told = withheld.told(faults, private())
    assert told[0] == faults[0] and told[3] == TokenFault("text-3", 1, (), ())

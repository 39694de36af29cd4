"""A user's own texts in an export: gated like the others, kept or withheld, and asked for again."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from goldfold import export, verify
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.driver import own_texts
from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import texts
from goldfold.exporter.verification import yours
from goldfold.golden import make as golden_make
from goldfold.golden import store
from goldfold.golden.errors import GoldenError
from goldfold.golden.reasons import Reason
from goldfold.golden.texts import Draft
from tests import static
from tests.conftest import GOLDEN_TEXTS, Exported

SECRET = "Zanzibar invoices are overdue"
LINES = f"{SECRET}\n\nWhere is my parcel?\n"
PAIR = '{"query": "reset a password", "document": "Open the settings and choose Reset."}\n'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("yours")
    (folder / "q.txt").write_text(LINES)
    (folder / "p.jsonl").write_text(PAIR)
    return f"{folder / 'q.txt'}:query", str(folder / "p.jsonl")


@pytest.fixture(scope="module")
def secret(tiny: Path, files: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    few = partial(golden_make.make, only=GOLDEN_TEXTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_make, "make", few)
        out = tmp_path_factory.mktemp("private")
        how = {"texts": files, "private_texts": True, "locate": False}
        (result,) = export(tiny, ["onnxruntime"], ["fp32"], out, **how)
    assert result.passed and len(result.measurement.rows) == len(GOLDEN_TEXTS) + 4
    return result.path


def test_private_texts_stay_at_home_and_can_be_given_again(
    secret: Path, files: tuple[str, str]
) -> None:
    for path in secret.parent.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            assert b"Zanzibar" not in raw and b"choose Reset" not in raw, path
    said = open_bundle(secret).manifest.texts
    assert said is not None and said.private and said.count == 4
    without = verify(secret)
    assert without.passed
    assert without.private == (
        "its 4 private texts were not run again; give their file with --texts"
    )
    some = verify(secret, texts=files[0])
    assert some.private.startswith("2 of its 4 private texts were not run again")
    whole = verify(secret, texts=files)
    assert whole.passed and not whole.private
    assert [row.id for row in whole.measurement.rows[-4:]] == [
        "yours-1", "yours-3", "yours2-1", "yours2-1-document",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="none of the 2 texts is one of the 4 private texts"):
        verify(secret, texts=files[0].removesuffix(":query"))


def test_wrong_embedding_of_a_private_text_fails_and_stays_failed(
    secret: Path, files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(secret, tmp_path / "copy")
    load = store.load

    def tampered(place: Path) -> store.Goldens:
        found = load(place)
        if place.name == "private":
            found.embeddings[0] = np.roll(found.embeddings[0], 1)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(store, "load", tampered)
        failed = verify(folder, texts=files)
    assert not failed.passed
    assert {one.text for one in failed.verdict.reasons if one.text} == {"yours-1"}
    again = verify(folder)  # without the text nothing shows that it holds
    assert not again.passed and "yours-1" in {one.text for one in again.verdict.reasons}
    assert verify(folder, texts=files).passed


def test_texts_that_may_travel_are_goldens_like_the_others(
    tiny: Path, files: tuple[str, str], tmp_path: Path, artifacts: dict[str, Path]
) -> None:
    folder = artifacts["onnxruntime"]
    goldens = store.load(folder / "golden")
    source = ready(open_model(tiny), Stages(), None)
    both = yours.read(files)
    found = yours.with_yours(goldens, source, both)
    assert yours.with_yours(found, source, both) is found  # each once
    cases = {case.id: case for case in found.cases}
    assert cases["yours-1"].text == SECRET and cases["yours-1"].call == "encode_query"
    assert cases["yours2-1-document"].call == "encode_document"
    assert len(found.cases) == len(goldens.cases) + 4
    said = yours.described(found)
    assert said is not None and said.count == 4 and not said.private
    assert yours.described(goldens) is None
    store.save(found, tmp_path / "golden")
    assert store.load(tmp_path / "golden").cases == found.cases
    with pytest.raises(UsageError, match="has no private texts"):
        verify(folder, texts=files)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert not {"texts", "calibration"} & manifest.keys()


def test_texts_that_the_model_does_not_take(tmp_path: Path, artifacts: dict[str, Path]) -> None:
    goldens = store.load(artifacts["onnxruntime"] / "golden")
    (tmp_path / "t.txt").write_text("fine\n")
    texts = yours.read(f"{tmp_path / 't.txt'}:nothing")
    source = SimpleNamespace(task="embedding", name="m", route="")
    with pytest.raises(UsageError, match=r"t\.txt:1: m has no prompt 'nothing'; known are query"):
        yours.with_yours(goldens, source, texts)  # type: ignore[arg-type]
    source.route, texts = "document", yours.read(f"{tmp_path / 't.txt'}:query")
    with pytest.raises(UsageError, match="is a query, and this is the document route of m"):
        yours.with_yours(goldens, source, texts)  # type: ignore[arg-type]
    source.task = "scores"
    with pytest.raises(UsageError, match="is one text, and m takes pairs"):
        yours.with_yours(goldens, source, texts)  # type: ignore[arg-type]
    asked = SimpleNamespace(texts=(), private=True)
    with pytest.raises(UsageError, match="keeps digests of your texts, and none are given"):
        own_texts.added(goldens, source, asked, Stages())  # type: ignore[arg-type]


def test_a_text_without_tokens_is_refused_by_its_line(tmp_path: Path) -> None:
    model = static.build(tmp_path / "static", words=static.tokenizer(unknown=False, specials=False))
    further = (Draft("yours-7", "yours", "Привет", call="encode", place="t.txt:7"),)
    with pytest.raises(GoldenError, match=r"t\.txt:7: m makes no token of this text"):
        golden_make.make(
            model, name="m", digests={}, opening=golden_make.Opening(further=further), only=()
        )


@dataclass(frozen=True)
class Asked:
    """The part of a request that is about calibration."""

    calibration: tuple[str, ...]


def test_calibration_texts_that_are_goldens_are_left_out(artifacts: dict[str, Path]) -> None:
    goldens = store.load(artifacts["onnxruntime"] / "golden")
    plain = next(case.text for case in goldens.cases if case.text and not case.prompt)
    others = tuple(map(str, range(16)))
    left, shared = own_texts.apart(Asked((plain, *others)), goldens)  # type: ignore[arg-type]
    assert left.calibration == others and shared == 1
    with pytest.raises(UsageError, match="without 1 that are goldens: holds 15 different texts"):
        own_texts.apart(Asked((plain, *others[1:])), goldens)  # type: ignore[arg-type]


def test_only_reasons_of_texts_that_were_not_run_are_carried() -> None:
    old = [
        Reason("distance", "fp32", name, "alone", 1.0, 0.1, emulated=emulated)
        for name, emulated in (("yours-1", False), ("yours-2", False), ("yours-1", True))
    ]
    mean = Reason("mean", "fp32", way="alone", value=1.0, limit=0.1)
    joined = yours.Joined(None, missing=frozenset({"yours-1"}))  # type: ignore[arg-type]
    assert list(yours.carried(joined, [*old, mean], [])) == [old[0], mean]
    assert list(yours.carried(joined, [*old, mean], [mean])) == [old[0]]
    assert not list(yours.carried(yours.Joined(None), [*old, mean], []))  # type: ignore[arg-type]


def test_own_calibration_texts_stand_for_both_sets(exported: Exported) -> None:
    program = exported.program
    own = tuple(f"only text {n}" for n in range(20))
    found = texts.calibration(program, own)
    assert len(found) > 20
    assert not {tuple(ids) for ids in found} & {tuple(ids) for ids in texts.calibration(program)}
    long = (*own, "one two three " * 3000)
    assert max(map(len, texts.short(program, long))) <= texts.SHORT
    assert texts.calibration(program, ((own[0], own[1]), *own[2:])) == found

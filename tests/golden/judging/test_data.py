"""The Lee corpus and the retrieval pairs: what they hold, what they leave out, how they fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from goldfold.golden.errors import GoldenError
from goldfold.golden.judging import lee, pairs

BODY = (
    "    total = sum(values)\n    count = len(values)\n    return total / count if count else 0.0\n"
)


def write(folder: Path, name: str, source: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source, encoding="utf-8")
    return folder


def function(name: str, doc: str, body: str = BODY) -> str:
    return f'def {name}(values):\n    """{doc}"""\n{body}\n'


def test_lee_holds_fifty_texts_and_peoples_judgements() -> None:
    pytest.importorskip("gensim")
    assert lee.unavailable() is None
    found = lee.load()
    assert len(found.texts) == 50
    assert found.people.shape == (50, 50)
    assert np.array_equal(found.people, found.people.T)
    assert found.people.min() >= 0 and found.people.max() == 1
    assert all(len(text) > 200 for text in found.texts)


def test_lee_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lee, "_folder", lambda: None)
    assert "goldfold[judge]" in (lee.unavailable() or "")
    with pytest.raises(GoldenError, match="gensim"):
        lee.load()
    monkeypatch.setattr(lee, "_folder", lambda: tmp_path)
    assert "lee.cor" in (lee.unavailable() or "")
    (tmp_path / "lee.cor").write_text("one\ntwo\n")
    (tmp_path / "similarities0-1.txt").write_text("1 0.5\n0 1\n")
    with pytest.raises(GoldenError, match="2 texts"):
        lee.load()


def test_lee_is_read_without_loading_gensim() -> None:
    code = "import sys; from goldfold.golden.judging import lee; lee.load(); "
    code += "print('gensim' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_pair_is_a_first_paragraph_and_a_nameless_function(tmp_path: Path) -> None:
    doc = "Return the mean of some\n    values.\n\n    Empty ones give zero."
    body = BODY + "    mean_of(values)  # mean_of again, not mean_ofs\n"
    write(tmp_path, "a.py", "@cache\n" + function("mean_of", doc, body))
    (pair,) = pairs.collect(1, (tmp_path,)).pairs
    assert pair.query == "Return the mean of some values."
    assert pair.document.startswith("def function(values):\n    total = sum(values)")
    assert "mean_of(" not in pair.document and '"""' not in pair.document
    assert "function(values)  # function again, not mean_ofs" in pair.document


def test_stubs_short_docstrings_and_tests_are_no_pairs(tmp_path: Path) -> None:
    write(tmp_path, "kept.py", function("a", "Return the mean of values."))
    write(tmp_path, "stub.py", function("b", "Return the mean of things.", "    return None\n"))
    write(tmp_path, "terse.py", function("c", "The mean."))
    write(tmp_path, "line.py", 'def d(): "Return a mean of more."; return 1\n')
    write(tmp_path, "tests/e.py", function("e", "Return the mean of every value."))
    write(tmp_path, "broken.py", "def f(:\n")
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    with pytest.raises(GoldenError, match="only 1 functions"):
        pairs.collect(2, (tmp_path,))


def test_no_query_and_no_document_stands_twice(tmp_path: Path) -> None:
    write(tmp_path, "a.py", function("a", "Return the mean of values."))
    write(tmp_path, "b.py", function("b", "Return  the MEAN of values.", BODY + "    return 1\n"))
    write(tmp_path, "c.py", function("c", "Say how large values are."))
    with pytest.raises(GoldenError, match=r"only [12] functions"):
        pairs.collect(3, (tmp_path,))


def test_set_depends_on_what_is_said_and_not_on_where(tmp_path: Path) -> None:
    sources = [function(f"f{i}", f"Return the mean, case {i} of many.") for i in range(8)]
    sources = [s.replace("0.0", f"{i}.0") for i, s in enumerate(sources)]
    one = write(tmp_path / "one", "all.py", "\n".join(sources))
    for i, source in enumerate(reversed(sources)):
        write(tmp_path / "other", f"deep/m{i}.py", source)
    first, second = (pairs.collect(5, (root,)) for root in (one, tmp_path / "other"))
    assert first == second
    assert len(first.pairs) == 5
    assert first.digest != pairs.collect(4, (one,)).digest


def test_texts_are_cut(tmp_path: Path) -> None:
    write(tmp_path, "a.py", function("a", "word " * 300, BODY * 30))
    (pair,) = pairs.collect(1, (tmp_path,)).pairs
    assert 390 <= len(pair.query) <= 400
    assert 390 <= len(pair.document) <= 400

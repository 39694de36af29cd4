"""Files of a user's own texts: what is read from them, and how each fault is refused."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import pytest

from goldfold import export
from goldfold.exporter.driver import own_texts
from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend import given
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.search import own_sets, testbed

Made = list[tuple[str, str, str, str | None]]


def made(file: Path | str, column: str | None = None) -> Made:
    return [(one.id, one.text, one.task, one.pair) for one in given.read([file], column)]


@pytest.mark.parametrize(
    ("name", "raw", "column", "wanted"),
    [
        (
            "lines.txt",
            b"\xef\xbb\xbfone\r\n\r\n  two, \xc3\xbc\rthree\xe2\x80\xa8more\n",
            None,
            [
                ("yours-1", "one", "", None),
                ("yours-3", "  two, ü", "", None),
                ("yours-4", "three\u2028more", "", None),
            ],
        ),
        ("twice.txt", b"a\nb\na\n", None, [("yours-1", "a", "", None), ("yours-2", "b", "", None)]),
        (
            "o.jsonl",
            b'{"text": "a", "task": "document"}\n\n"b"\n{"query": "c"}\n',
            None,
            [
                ("yours-1", "a", "document", None),
                ("yours-3", "b", "", None),
                ("yours-4", "c", "query", None),
            ],
        ),
        ("o.jsonl", b'{"body": "a", "x": "b"}\n', "x", [("yours-1", "b", "", None)]),
        ("p.jsonl", b'{"query": "q", "document": "d"}\n', None, [("yours-1", "q", "", "d")]),
        (
            "t.csv",
            b'id,text\r\n1,"a ""b""\r\nc"\r\n2,d\r\n',
            None,
            [("yours-2", 'a "b"\nc', "", None), ("yours-4", "d", "", None)],
        ),
        ("t.tsv", b'a\tb\nx "y\tz\n', "a,b", [("yours-2", 'x "y', "", "z")]),
    ],
)
def test_forms(tmp_path: Path, name: str, raw: bytes, column: str | None, wanted: Made) -> None:
    file = tmp_path / name
    file.write_bytes(raw)
    assert made(file, column) == wanted


def test_way_behind_a_file_and_a_second_file(tmp_path: Path) -> None:
    one, other = tmp_path / "a.txt", tmp_path / "b:query"
    one.write_text("x\n")
    other.write_text("y\n")
    found = given.read([f"{one}:query", str(other)])
    assert [(t.id, t.task) for t in found] == [("yours-1", "query"), ("yours2-1", "")]


@pytest.mark.parametrize(
    ("name", "raw", "column", "said"),
    [
        ("e.txt", b"", None, "e.txt: holds no text"),
        ("e.txt", b"\n \r\n", None, "e.txt: holds no text"),
        ("e.txt", b"ok\n\xff\n", None, "e.txt:2: is not UTF-8"),
        ("e.txt", "a".encode("utf-16"), None, "is UTF-16"),
        ("e.txt", b"a", "text", "has lines, and no column 'text'"),
        ("e.txt", b"a" * 100_001, None, "e.txt:1: has 100,001 characters"),
        ("e.txt", b"\n".join(b"%d" % i for i in range(2001)), None, "is text 2,001"),
        ("e.txt", b"\n".join(b"[" * 99_000 + b"%d" % i for i in range(5)), None, "3 MiB"),
        ("e.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', None, "e.jsonl:2: has 'txt', and none of"),
        ("e.jsonl", b'{"text": "a"}\n', "b", "e.jsonl:1: has no column 'b', but 'text'"),
        ("e.jsonl", b'{"text": " "}\n', None, "e.jsonl:1: 'text' is empty"),
        ("e.jsonl", b'{"text": null}\n', None, "'text' is NoneType, no text"),
        ("e.jsonl", b"{\n", None, "e.jsonl:1: is no JSON"),
        ("e.jsonl", b"[" * 100_000, None, "nested too deep"),
        ("e.jsonl", b"[1]\n", None, "is no object"),
        ("e.jsonl", b'{"text": "\\ud800"}\n', None, "half a character"),
        ("e.csv", b"id,text\n1,a\n2\n", None, "e.csv:3: has 1 columns"),
        ("e.csv", b'text\n"a\n', None, "is no table"),
        ("e.csv", b"a,a\n1,2\n", "a", "names a column twice"),
        ("e.csv", b"a,b\n1,2\n", "a,", "is no column"),
        ("e.json", b"[]", None, ".json is no form of texts"),
    ],
)
def test_faults_name_file_and_line(
    tmp_path: Path, name: str, raw: bytes, column: str | None, said: str
) -> None:
    file = tmp_path / name
    file.write_bytes(raw)
    with pytest.raises(UsageError) as error:
        given.read([file], column)
    assert said in str(error.value) and str(tmp_path) in str(error.value) + str(tmp_path)
    assert "\n" not in str(error.value)


def test_no_file_a_folder_and_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        given.read([tmp_path / "none.txt"])
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        given.read([tmp_path])
    monkeypatch.setattr(given, "LIMIT", 1 << 20)
    (tmp_path / "large.txt").write_bytes(b"a\n" * (1 << 20))
    with pytest.raises(UsageError, match=r"larger than 1 MiB; take a sample, as with `shuf"):
        given.read([tmp_path / "large.txt"])


def test_pairs_become_two_texts_or_stay(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"query": "q", "document": "d"}\n{"text": "t"}\n')
    found = given.read([file])
    assert [(t.id, t.text, t.task) for t in given.as_texts(found)] == [
        ("yours-1", "q", "query"), ("yours-1-document", "d", "document"), ("yours-2", "t", ""),
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"p\.jsonl:2: is one text, and ranker takes pairs"):
        given.as_pairs(found, "ranker")


def lines(folder: Path, texts: list[str]) -> Path:
    file = folder / "calibration.txt"
    file.write_text("\n".join(texts), encoding="utf-8")
    return file


def test_calibration_texts_of_one_script_are_warned_of(tmp_path: Path) -> None:
    latin = [f"text number {n}, in 3 words!" for n in range(20)]
    with pytest.warns(UserWarning, match="every letter is Latin"):
        assert len(own_texts.calibration(lines(tmp_path, latin))) == 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own_texts.calibration(lines(tmp_path, [*latin, "Привет"]))
    with pytest.warns(UserWarning, match="every letter is Han"):
        own_texts.calibration(lines(tmp_path, [f"漢字とかなカナ{n}" for n in range(20)]))


def test_too_few_calibration_texts_are_refused_before_any_work(tmp_path: Path) -> None:
    file = lines(tmp_path, [f"text {n} Привет" for n in range(15)] * 2)
    with pytest.raises(UsageError, match="holds 15 different texts"):
        export("no model", ["openvino"], ["int8"], tmp_path / "out", calibration_texts=file)
    file = lines(tmp_path, [f"text {n} Привет" for n in range(16)])
    with pytest.raises(UsageError, match="fp32 is neither"):
        export("no model", ["openvino"], ["fp32"], tmp_path / "out", calibration_texts=file)
    with pytest.raises(UsageError, match="leave :query out"):
        own_texts.calibration(f"{file}:query")
    with pytest.raises(UsageError, match="--column names a column"):
        export("no model", out=tmp_path / "out", column="text")
    assert not (tmp_path / "out").exists()


def test_a_search_is_not_compared_on_what_it_was_calibrated_with(tmp_path: Path) -> None:
    first = lines(tmp_path, [f"text {n} Привет" for n in range(16)])
    second = tmp_path / "tuning.txt"
    second.write_text("\n".join(f"other {n} Привет" for n in range(16)), encoding="utf-8")
    both = own_sets.own_sets(first, second)
    assert [len(one) for one in both] == [16, 16]
    assert own_sets.said(*both)[1].startswith("compared on 16 texts of the user's own, sha256 ")
    second.write_text(second.read_text("utf-8") + "\ntext 3 Привет", encoding="utf-8")
    with pytest.raises(UsageError, match="1 of the 17 texts are calibration texts"):
        own_sets.own_sets(first, second)


def test_trials_of_other_texts_are_not_taken_up() -> None:
    key = partial(testbed.key_of, "0" * 64, Recipe(name="r"), None)
    keys = {key(), key(testbed.Sets(("a",))), key(testbed.Sets((), ("a",))), key(testbed.Sets())}
    assert len(keys) == 3

"""`embed_stream` and its relatives: order, bounded reading, places of errors, cancelling, files."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest

from goldfold import load
from goldfold.exporter.artifact import streams
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.artifact.progress_line import ProgressLine
from goldfold.exporter.errors import TextError, UsageError

TEXTS = [f"{'bread and wine ' * (at % 7)}{at}" for at in range(40)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def encoder(artifacts: dict[str, Path]) -> Encoder:
    return load(artifacts["onnxruntime"], threads=1)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"output": "int8", "dims": 16, "task": "query"},
        {"output": "ubinary", "prompt": "document", "batch_size": 3},
    ],
)
def test_a_stream_is_what_embed_gives(encoder: Encoder, how: dict) -> None:
    parts = list(encoder.embed_stream(iter(TEXTS), window=16, **how))
    assert [len(rows) for rows in parts] == [16, 16, 8]
    whole = np.concatenate([encoder.embed(TEXTS[at : at + 16], **how) for at in (0, 16, 32)])
    found = np.concatenate(parts)
    assert found.dtype == whole.dtype and np.array_equal(found, whole)
    assert list(encoder.embed_stream([], **how)) == []


def test_a_stream_reads_one_window_ahead(encoder: Encoder) -> None:
    read = 0
    closed = False

    def source() -> Iterator[str]:
        nonlocal read, closed
        try:
            for text in TEXTS:
                read += 1
                yield text
        finally:
            closed = True

    made = encoder.embed_stream(source(), window=10)
    assert read == 0
    next(made)
    assert read == 10
    made.close()  # type: ignore[attr-defined]
    del made
    assert closed and read == 10


def test_long_texts_make_small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LETTERS", 10)
    assert list(streams.windows(["aaaa", "bbbb", "cccc", "d" * 30, "", "e"])) == [
        ["aaaa", "bbbb"], ["cccc"], ["d" * 30], ["", "e"],
    ]  # fmt: skip
    assert list(streams.windows([("aaaa", "bbbb"), ("c", "dddd")])) == [
        [("aaaa", "bbbb")],
        [("c", "dddd")],
    ]


def test_errors_name_the_place_in_the_stream(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = encoder.embed_stream([*TEXTS[:25], 7], window=10)  # type: ignore[list-item]
    assert [len(next(made)) for _ in range(2)] == [10, 10]
    with pytest.raises(UsageError, match=r"^text 25 is int; embed_stream takes strings"):
        next(made)
    read = Encoder._read

    def odd(self: Encoder, texts: list[str], task: str) -> object:
        found, wrong = read(self, texts, task)  # type: ignore[arg-type]
        return found, {**wrong, **{at: "is odd" for at, t in enumerate(texts) if t == TEXTS[23]}}

    monkeypatch.setattr(Encoder, "_read", odd)
    with pytest.raises(TextError, match=r"^text 23 \('bread.*'\) is odd$") as caught:
        list(encoder.embed_stream(TEXTS, window=10))
    assert caught.value.reasons == {23: "is odd"}
    with pytest.warns(UserWarning, match="rows of NaN: text 23"):
        parts = list(encoder.embed_stream(TEXTS, window=10, errors="nan"))
    assert np.flatnonzero(np.isnan(np.concatenate(parts)).any(axis=1)).tolist() == [23]


def test_what_the_source_raises_passes_through(encoder: Encoder) -> None:
    def source() -> Iterator[str]:
        yield from TEXTS[:5]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(encoder.embed_stream(source()))


def test_a_stream_is_cancelled_between_two_calls(encoder: Encoder) -> None:
    event, told = threading.Event(), []

    def progress(done: int) -> None:
        told.append(done)
        if done > 12:
            event.set()

    made = encoder.embed_stream(TEXTS, window=10, batch_size=4, progress=progress, cancel=event)
    assert len(next(made)) == 10
    with pytest.raises(CancelledError, match="the stream was cancelled after") as caught:
        next(made)
    assert str(told[-1]) in str(caught.value)
    assert 12 < told[-1] < 20 and told == sorted(told)


@pytest.mark.parametrize(
    ("texts", "how", "said"),
    [
        ("abc", {}, "a stream is read from an iterator, not from str"),
        (3, {}, "not from int"),
        ([], {"window": 0}, "window is 0"),
        ([], {"batch_size": 0}, "batch_size is 0"),
        ([], {"dims": 999}, "dims is 999"),
        ([], {"prompt": "title"}, "no prompt 'title'"),
        ([], {"output": "int3"}, "output is 'int3'"),
        ([], {"output": "int8", "ranges": np.zeros((2, 3))}, r"ranges are \(2, 3\)"),
    ],
)
def test_arguments_are_refused_before_the_first_text(
    encoder: Encoder, texts: object, how: dict, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        encoder.embed_stream(texts, **how)  # type: ignore[arg-type]


def test_progress_in_a_log_is_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = io.StringIO()
    line = ProgressLine(100, log)
    for now[0] in (1.0, 9.0, 10.0, 12.0, 20.0):
        line(int(now[0]) * 5)
    line.close()
    assert log.getvalue() == (
        "50 of 100 texts, 5 a second, 10 s\n100 of 100 texts, 5 a second, 20 s\n"
    )


# --- goldfold embed ARTIFACT -


def shell(*words: object, lines: bytes) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "goldfold", "embed", *map(str, words)]
    return subprocess.run(command, input=lines, capture_output=True, cwd=ROOT)


def test_lines_become_a_file(encoder: Encoder, tmp_path: Path) -> None:
    file, other = tmp_path / "rows.npy", tmp_path / "same.npy"
    done = shell(encoder.bundle.path, "-", "--save", file, lines=b"\xef\xbb\xbfone\r\n\r\ntwo")
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")
    np.save(other, load(encoder.bundle.path).embed(["one", "", "two"]))
    assert file.read_bytes() == other.read_bytes()
    broken = shell(encoder.bundle.path, "-", "--save", file, lines=b"one\n\xff\xfe\n")
    assert broken.returncode == 2
    assert broken.stderr.decode() == "error: line 2 of standard input is not utf-8\n"
    assert file.read_bytes() == other.read_bytes(), "the old file is still there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.npy", "same.npy"]


def test_a_file_of_no_lines_is_one(encoder: Encoder, tmp_path: Path) -> None:
    file = tmp_path / "rows.npy"
    how = ("--save", file, "--output", "ubinary", "--dims", "20")
    assert shell(encoder.bundle.path, "-", *how, lines=b"").returncode == 0
    found = np.load(file)
    assert found.shape == (0, 3) and found.dtype == np.uint8

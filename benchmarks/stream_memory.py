"""Memory of `embed_stream`, and of `embed`, over the loaded model, for any number of drawn texts.

    python -m benchmarks.stream_memory out/onnxruntime-fp32 --texts 100000 --words 60
    python -m benchmarks.stream_memory out/onnxruntime-fp32 --texts 100000 --words 60 --whole

Prints the resident memory above that of the loaded model (which has embedded one text by then)
after each tenth of the texts, and its peak. Texts are drawn with a fixed seed, from half as many
words as are asked for to half as many again, and are made as the stream reads them. `--whole`
gives all texts to `embed`: its list of texts and the array of its result are counted apart. Linux.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import STATUS

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def drawn(count: int, words: int, seed: int = 0) -> Iterator[str]:
    """Yields texts of `words` words on average, drawn from 20,000 words of 2 to 9 letters."""
    dice = random.Random(seed)
    known = ["".join(dice.choices(_LETTERS, k=dice.randint(2, 9))) for _ in range(20_000)]
    for _ in range(count):
        yield " ".join(dice.choices(known, k=max(1, dice.randint(words // 2, words * 3 // 2))))


def megabytes(name: str) -> float:
    """Returns VmRSS or VmHWM of this process."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--whole", action="store_true", help="embed, of a list, instead")
    asked = parser.parse_args()

    from goldfold import load

    encoder = load(asked.artifact)
    encoder.embed("one text")
    model = megabytes("VmRSS")
    print(f"the loaded model: {model:.0f} MB")
    if asked.whole:
        texts = list(drawn(asked.texts, asked.words))
        held = megabytes("VmRSS")
        rows = encoder.embed(texts)
        over = megabytes("VmHWM") - held - rows.nbytes / 2**20
        print(f"the texts: {held - model:.0f} MB; the result: {rows.nbytes / 2**20:.0f} MB")
        print(f"embed, of {len(texts)} texts: at most {over:.0f} MB above the three")
        return
    done, step = 0, max(1, asked.texts // 10)
    for rows in encoder.embed_stream(drawn(asked.texts, asked.words)):
        before, done = done, done + len(rows)
        if done // step > before // step or done == asked.texts:
            now, peak = megabytes("VmRSS") - model, megabytes("VmHWM") - model
            print(f"{done} texts: {now:.0f} MB above the model, at most {peak:.0f} MB", flush=True)


if __name__ == "__main__":
    main()

"""The README's blocks, run as they stand in a folder that holds what they name.

A comment in the line above a block says what is done with it:

run      the block is run, word for word, and must end with 0. `goldfold` is this checkout's,
         MODEL and path/to/embeddinggemma-300m are a tiny model with EmbeddingGemma's prompts and
         sizes of embedding. Blocks run in order: what one writes, the next may read.
options  the command line is parsed: a renamed option fails, nothing is run.
make     make knows the target.

A block without a language is output, and says no command. Any other without a comment fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import commands
from tests.docs.blocks import ROOT, Block, blocks

README = blocks(ROOT / "README.md")
MARKS = ("run", "options", "make")


def mark_of(block: Block) -> str:
    return block.mark.partition(";")[0]


def marked(word: str) -> list[Block]:
    return [block for block in README if mark_of(block) == word]


def test_every_block_says_what_is_done_with_it() -> None:
    for block in README:
        if block.language:
            assert mark_of(block) in MARKS, f"{block} has no mark: <!-- test: {'|'.join(MARKS)} -->"
        else:
            assert not block.mark, f"{block} is output, and marked"
            commands_in = [
                x for x in block.text.splitlines() if x.startswith(("goldfold ", "make "))
            ]
            assert not commands_in, f"{block} is called output and says {commands_in[0]!r}"
    assert len(marked("run")) >= 4 and len(marked("options")) >= 3


@pytest.mark.parametrize("block", marked("make"), ids=str)
def test_make_knows_the_targets(block: Block) -> None:
    for line in commands.lines_of(block.text):
        words = line.split("#")[0].split()
        assert words[0] == "make"
        done = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [(where, line) for page in PAGES for where, line in commands.commands(page)]
MENTIONS = [(page.name, line) for page in PAGES for line in commands.mentions(page)]


@pytest.mark.parametrize(("where", "line"), COMMANDS)
def test_the_command_line_is_one(where: str, line: str) -> None:
    said = commands.wrong_with(line)
    assert said is None, f"{where}: {line}: {said}"


@pytest.mark.parametrize(("where", "line"), sorted(set(MENTIONS)))
def test_what_running_text_mentions_is_there(where: str, line: str) -> None:
    said = commands.wrong_with(line, whole=False)
    assert said is None, f"{where}: {line}: {said}"


def test_an_option_that_is_gone_is_noticed() -> None:
    said = commands.wrong_with("goldfold export MODEL --targets openvino")
    assert said is not None and "No such option" in said
    said = commands.wrong_with("goldfold exprot", whole=False)
    assert said is not None and "No such command" in said
    assert commands.wrong_with("goldfold export") is not None
    assert commands.wrong_with("goldfold export", whole=False) is None


# Run ----------------------------------------------------------------------------------------------


def environment(place: Path) -> dict[str, str]:
    """With `goldfold` and `python` of this checkout first in PATH."""
    bin = place / "bin"
    bin.mkdir()
    for name, words in {"goldfold": "-m goldfold", "python": ""}.items():
        script = bin / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n', "utf-8")
        script.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


def run(block: Block, place: Path, env: dict[str, str]) -> None:
    shell = ["bash", "-eu", "-o", "pipefail", "-c", block.text]
    command = shell if block.language == "console" else [sys.executable, "-c", block.text]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block} ends with {done.returncode}\n{done.stdout}{done.stderr}"


def test_the_blocks_run_in_order(tmp_path: Path) -> None:
    from tests import models

    model = tmp_path / "path" / "to" / "embeddinggemma-300m"
    head = ("3072 Identity unbiased", "768 Identity unbiased", "normalize")
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    models.build("gemma3", model, head=head, max_seq_length=300, **layers)
    (tmp_path / "MODEL").symlink_to(model)
    env = environment(tmp_path)
    for block in marked("run"):
        if "the keys" in block.mark:
            shutil.copytree(tmp_path / "out", tmp_path / "other")
            (keys,) = (b for b in blocks(ROOT / "docs" / "trust.md") if "openssl" in b.text)
            subprocess.run(
                ["bash", "-eu", "-c", keys.text], cwd=tmp_path, check=True, capture_output=True
            )
        run(block, tmp_path, env)
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "openvino-fp32.sig").is_file()


REAL = os.environ.get("GOLDFOLD_REAL_OUT")


@pytest.mark.real
@pytest.mark.skipif(REAL is None, reason="GOLDFOLD_REAL_OUT names no export of EmbeddingGemma")
def test_the_python_block_runs_on_the_real_one(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(Path(REAL or "").resolve())
    env = environment(tmp_path)
    (block,) = (block for block in marked("run") if block.language == "python")
    run(block, tmp_path, env)

"""The command line loads little: help and version import no library that computes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEAVY = {
    "coremltools", "jinja2", "joblib", "matplotlib", "numpy", "onnx", "onnx_ir", "onnxruntime",
    "onnxscript", "openvino", "pydantic", "safetensors", "scipy", "sentence_transformers",
    "sklearn", "tensorrt", "tokenizers", "torch", "transformers",
}  # fmt: skip
ROOMS = {"artifact", "diagnose", "driver", "evaluate", "frontend", "ir", "passes", "quantize",
         "report", "search", "verification"}  # fmt: skip
SCRIPT = """
import sys
from goldfold.exporter.cli import app
sys.argv = ["goldfold", *sys.argv[1:]]
try:
    app.main()
finally:
    sys.stderr.write(" ".join(sys.modules))
"""


@pytest.mark.parametrize(
    "words",
    [("--help",), ("--version",), ("targets", "--help"), ("export", "--help")],
    ids=" ".join,
)
def test_what_prints_help_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], cwd=ROOT, capture_output=True, text=True
    )
    loaded = done.stderr.splitlines()[-1].split()
    assert done.returncode == 0, done.stderr
    assert "goldfold.exporter.cli.app" in loaded
    taken = {"pydantic"} if words[1:] else set()  # typer itself reads a command's options with it
    assert not {name.partition(".")[0] for name in loaded} & (HEAVY - taken)
    assert not {name for name in loaded if name.split(".")[2:3] and name.split(".")[2] in ROOMS}
    work = ("build", "run", "lower.lowering", "evaluate")  # of a target; its options are flags
    assert not [name for name in loaded if name.endswith(tuple(f".{one}" for one in work))]


def test_no_command_takes_eight_parameters() -> None:
    for path in sorted((ROOT / "exporter" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                taken = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                assert len(taken) < 8, f"{path.name}: {node.name}"

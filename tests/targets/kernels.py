"""What OpenVINO's plugin really runs: counts of kernels, kept by model, precision and instruction
set in kernels.json.

A kernel that no longer fuses costs more than any law gains, and no embedding shows it. A change
fails a test that shows the difference; where it is meant, `python -m tests.targets.kernels FOLDER`
writes the counts of an artifact anew, on the machine and the version that runs it.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.targets.openvino import run

KEPT = Path(__file__).with_name("kernels.json")
_SETS = ("amx_tile", "avx512_fp16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")
"""Best first; the plugin chooses its kernels by the best there is."""

Counts = dict[str, int]


def instruction_set() -> str:
    """The best of the sets that the plugin asks for, or the machine's name where it says none."""
    described = Path("/proc/cpuinfo")
    flags = set(described.read_text(encoding="utf-8").split()) if described.is_file() else set()
    return next((name for name in _SETS if name in flags), platform.machine())


def key(folder: Path) -> str:
    manifest = open_bundle(folder).manifest
    release = version("openvino")
    return f"{manifest.origin.name} {manifest.precision} {instruction_set()} openvino-{release}"


def counted(folder: Path) -> Counts:
    """Kernels by layer type; constants are left out, which name no work."""
    return {name: n for name, n in run.census(folder).items() if name not in ("Const", "Input")}


def kept() -> dict[str, Counts]:
    return json.loads(KEPT.read_text(encoding="utf-8"))


def difference(before: Counts, after: Counts) -> list[str]:
    """`RMS: 145 -> 105`, one line a kernel whose number changed."""
    names = sorted(before.keys() | after.keys())
    pairs = ((name, before.get(name, 0), after.get(name, 0)) for name in names)
    return [f"{name}: {old} -> {new}" for name, old, new in pairs if old != new]


def main() -> None:
    counts = kept() if KEPT.is_file() else {}
    for name in sys.argv[1:]:
        folder = Path(name)
        counts[key(folder)] = counted(folder)
    text = json.dumps(dict(sorted(counts.items())), indent=1, sort_keys=True)
    KEPT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

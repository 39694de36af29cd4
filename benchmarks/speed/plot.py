"""The record as a picture: for each shape, how many times the machine's least each side takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {
    "goldfold": "#b8860b", "optimum-intel": "#1f5fa8", "st openvino": "#6aa5dc",
    "st onnx": "#8a8a8a", "st torch": "#d1553b",
}  # fmt: skip
SHOWN = ("f32", "bf16", "f32-capped")


def draw(record: dict[str, Any], file: Path) -> None:
    """Write a .png: one panel a variant, bars relative to what the machine allows."""
    import matplotlib

    matplotlib.use("Agg")  # no display is needed to write a file
    import matplotlib.pyplot as plt

    variants = [v for v in record["variants"] if v["variant"] in SHOWN and v["shapes"]]
    figure, axes = plt.subplots(
        len(variants), 1, figsize=(9, 2.9 * len(variants)), squeeze=False, layout="constrained"
    )
    for axis, variant in zip(axes[:, 0], variants, strict=True):
        names = list(variant["load"])
        width = 0.8 / len(names)
        for place, name in enumerate(names):
            heights = [row["ms"][name]["median"] / row["least_ms"] for row in variant["shapes"]]
            where = [x + (place - (len(names) - 1) / 2) * width for x in range(len(heights))]
            colour = COLOURS.get(name, "#c9a24b")
            bars = axis.bar(where, heights, width * 0.92, label=name, color=colour)
            labels = [f"{row['ms'][name]['median']:.0f}" for row in variant["shapes"]]
            axis.bar_label(bars, labels, fontsize=6.5, padding=1)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks(
            range(len(variant["shapes"])),
            [
                f"{row['batch']} × {row['tokens']}\nleast {row['least_ms']:.0f} ms"
                for row in variant["shapes"]
            ],
            fontsize=8,
        )
        axis.set_ylabel("times the least")
        axis.set_title(f"{variant['variant']}, milliseconds on the bars", loc="left", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.12)
    axes[0, 0].legend(fontsize=7, ncols=5, frameon=False, loc="upper right")
    figure.suptitle(
        f"{record['model']}, batch × tokens, {record['machine']['threads']} threads "
        f"({record['machine']['cpu']})",
        fontsize=10,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    # No date and no version: the same record gives the same bytes.
    figure.savefig(file, dpi=130, metadata={"Software": None})
    plt.close(figure)

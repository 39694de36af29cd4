"""Few texts and short clocks, so that a whole search of a tiny model takes seconds."""

from __future__ import annotations

import pytest

from goldfold.exporter.evaluate import interpret
from goldfold.exporter.quantize import texts
from goldfold.exporter.search import timing, tuning


def few(patch: pytest.MonkeyPatch) -> None:
    """Of every set of texts, the first; of every measurement, the shortest."""
    tuned, calibrated = tuning.texts()[:16], texts.calibration_texts()[:24]
    patch.setattr(tuning, "texts", lambda: tuned)
    patch.setattr(texts, "calibration_texts", lambda: calibrated)
    patch.setattr(tuning, "_LENGTHS", (60,))
    patch.setattr(texts, "_LENGTHS", (60,))
    real = interpret.Session.__init__  # a second thread would only wait for the first

    def one_thread(self, model, optimise=True, threads=None) -> None:
        real(self, model, optimise, 1)

    patch.setattr(interpret.Session, "__init__", one_thread)
    patch.setattr(timing, "_RUNS", 2)
    patch.setattr(timing, "_SECONDS", 0.0)


def main() -> None:
    """`goldfold` with few texts, for a process that is to be killed."""
    from goldfold.exporter.cli import app

    few(pytest.MonkeyPatch())
    app.main()


if __name__ == "__main__":
    main()

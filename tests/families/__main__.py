"""Run every family and write docs/families.md: `make pages` calls this.

python -m tests.families
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as tests/conftest.py has it

from tests.families import measure, page


def main() -> int:
    """Write the page, or say why it cannot be written."""
    missing = sorted(set(page.SHOWN) - set(measure.here()))
    if missing:
        print(f"docs/families.md needs every target; here is no {missing[0]}", file=sys.stderr)
        return 1
    rows = []
    for family in page.FAMILIES:
        print(family.kind, file=sys.stderr)
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(page.row(family, measure.show(family, Path(scratch))))
    page.PAGE.write_text(page.render(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

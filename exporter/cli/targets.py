"""`goldfold targets`: the precisions and options of each target, and whether it works here."""

from __future__ import annotations

from rich.text import Text

from goldfold.exporter.cli.console import open_console


def targets() -> None:
    """List the targets, their precisions and options, and whether they work on this machine."""
    from rich.table import Table

    from goldfold.exporter import registry

    shown = Table("target", "precisions", "integers", "here", title="Targets", title_justify="left")
    reasons = []
    for name in registry.names():
        target = registry.target(name)
        missing, stuck = registry.unavailable(name), target.cannot_run()
        works = "no" if missing else "builds" if stuck else "builds and runs"
        integers = ", ".join(sorted(target.quantizes)) or "none"
        shown.add_row(name, ", ".join(target.precisions), integers, works)
        reasons += [f"{name}: {reason}" for reason in (missing or stuck,) if reason]
    console = open_console()
    console.print(shown)
    for reason in reasons:
        console.print(Text(reason), soft_wrap=True)

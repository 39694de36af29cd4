"""The `goldfold` command: its commands in the order in which a user meets them.

Each command lies in a file of its own, calls one public function, and prints what that returns.
`goldfold --help` loads all of these files, so the commands import slow modules inside.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from goldfold.exporter import __version__
from goldfold.exporter.cli.amplify import amplify
from goldfold.exporter.cli.bisect import bisect
from goldfold.exporter.cli.cache import cache_app
from goldfold.exporter.cli.ci import ci
from goldfold.exporter.cli.compat import compat
from goldfold.exporter.cli.console import warn
from goldfold.exporter.cli.coreml_run import coreml_run
from goldfold.exporter.cli.demo import demo
from goldfold.exporter.cli.diff import diff
from goldfold.exporter.cli.embed import embed
from goldfold.exporter.cli.exit_codes import flushed, guarded
from goldfold.exporter.cli.export import export
from goldfold.exporter.cli.flags import flagged
from goldfold.exporter.cli.goldens import golden_app
from goldfold.exporter.cli.inspect import inspect
from goldfold.exporter.cli.judge import judge
from goldfold.exporter.cli.layout import layout
from goldfold.exporter.cli.passes import explain, passes
from goldfold.exporter.cli.push import push
from goldfold.exporter.cli.quantize import quantize
from goldfold.exporter.cli.rank import rank
from goldfold.exporter.cli.recipes import recipes
from goldfold.exporter.cli.report import report
from goldfold.exporter.cli.sbom import sbom
from goldfold.exporter.cli.sign import sign
from goldfold.exporter.cli.targets import targets
from goldfold.exporter.cli.verify import verify
from goldfold.exporter.system import interrupt, natives

app = typer.Typer(
    name="goldfold",
    help="Compile a SentenceTransformer, and prove that nothing changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    *(export, verify, embed, rank, inspect, report, ci),
    *(targets, recipes, quantize, judge, compat),
    *(layout, sign, sbom, push, diff, demo),
    *(passes, explain, bisect, amplify, coreml_run),
):
    app.command()(flagged(command))
app.add_typer(golden_app, name="golden")
app.add_typer(cache_app, name="cache")


def _version(asked: bool) -> None:
    if asked:
        print(f"goldfold {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compile a SentenceTransformer, and prove that nothing changed."""


def main() -> None:
    """Run the command line. A failure is one line on standard error and a documented exit code."""
    interrupt.running()
    warnings.showwarning = lambda message, *_: warn(str(message))
    debug = "--debug" in sys.argv[1:]
    if not debug:
        natives.be_quiet()
    code = flushed(guarded(app, debug))
    interrupt.done()
    sys.exit(code)

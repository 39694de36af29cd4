"""Exit codes: an error of a command becomes one line on standard error and a documented exit
code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import typer
from rich.text import Text

from goldfold.exporter.cli.console import one_line, open_console
from goldfold.exporter.errors import GoldfoldError, OutputError, UsageError
from goldfold.exporter.system import interrupt, natives
from goldfold.exporter.system.faults import unexpected
from goldfold.golden.errors import GoldenError


def guarded(run: Callable[..., Any], debug: bool) -> int:
    """Call `run` and turn its errors into an exit code (exporter/errors.py lists them)."""
    try:
        # typer returns the code of an Exit instead of raising it, and makes Ctrl-C an Exit of 130.
        code = run(standalone_mode=False) or 0
        if code == 130:
            raise KeyboardInterrupt
        return code
    except (GoldfoldError, GoldenError) as error:
        return _fail(error, error.code, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        return 141
    except Exception as error:
        if interrupt.came():  # a library turned it into another error
            return _interrupted()
        code = getattr(error, "exit_code", None)
        if code is not None and hasattr(error, "format_message"):  # click's usage errors
            message = error.format_message()  # type: ignore[attr-defined]
            # Without a message it has printed the help already: no command was given.
            return _fail(UsageError(message), 2, debug) if message else 2
        found = unexpected(error)
        return _fail(found, found.code, debug, error)
    except BaseException as error:
        if not natives.is_panic(error):
            raise
        said = f"a library gave up ({natives.reason(error)}); --debug shows where"
        return _fail(GoldfoldError(said), GoldfoldError.code, debug, error)


def flushed(code: int) -> int:
    """Flush standard output; returns `code`, or another code if that fails.

    Python does this when it ends, and prints two lines where it fails.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            with suppress(OSError, ValueError, AttributeError):  # so that it is not tried again
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if code == 0:
                gone = isinstance(error, BrokenPipeError)
                said = getattr(error, "strerror", None) or error
                broken = OutputError(f"cannot write what is printed: {said}")
                code = 141 if gone else _fail(broken, broken.code, False)
    return code


def _interrupted() -> int:
    first, _, rest = interrupt.SAID.partition(";")
    open_console(stderr=True).print(Text.assemble((first, "red"), f";{rest}"), soft_wrap=True)
    return interrupt.CODE


def _fail(error: Exception, code: int, debug: bool, cause: BaseException | None = None) -> int:
    if debug:
        import traceback

        said = "".join(traceback.format_exception(cause or error))
        open_console(stderr=True).print(Text(said.rstrip()), no_wrap=True, crop=False)
    # A Text, so that brackets in a path or an extra's name are not read as markup.
    line = Text.assemble(("error:", "bold red"), " ", one_line(str(error)))
    with suppress(OSError, ValueError):  # nobody reads standard error, or the disk is full
        open_console(stderr=True).print(line, soft_wrap=True)
    return code

"""What surrounds a trace: silence, no work that nobody needs, and errors in one line."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator

from torch.fx import config as fx_config

from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.system import natives


@contextlib.contextmanager
def placed(source: Source) -> Iterator[None]:
    """Add the model's folder to an error's message."""
    try:
        yield
    except ModelError as error:
        if str(source.path) in str(error):
            raise
        raise ModelError(f"{source.path}: {error}") from error.__cause__


@contextlib.contextmanager
def unpanicked(source: Source) -> Iterator[None]:
    """Turn a panic of the tokenizers library, which is Rust, into a ModelError."""
    with natives.hushed():
        try:
            yield
        except BaseException as error:
            if not natives.is_panic(error):
                raise
            raise ModelError(
                f"{source.path}: its tokenizer gives up on a text ({natives.reason(error)}); its "
                "tokenizer.json asks for more than the tokenizers library does"
            ) from None


@contextlib.contextmanager
def lean():
    """Leave work out of a trace that nothing here needs.

    Garbage collection is off: nearly all of the millions of objects that a trace makes live until
    it ends. The Python lines that each node came from are not recorded: names.py keeps the module,
    and drops the rest.
    """
    collects, traces = gc.isenabled(), fx_config.do_not_emit_stack_traces
    gc.disable()
    fx_config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        fx_config.do_not_emit_stack_traces = traces
        if collects:
            gc.enable()


@contextlib.contextmanager
def quiet():
    """Silence what torch and transformers print on the way; errors still raise."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def cause(error: BaseException | None, kind: type) -> BaseException | None:
    while error is not None:
        if isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None

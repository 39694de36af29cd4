"""The options of a Core ML package, and their defaults."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from goldfold.exporter.errors import TargetError
from goldfold.exporter.options import Options
from goldfold.targets.coreml.lower.vendor import DEFAULT_SYSTEM, MULTIFUNCTION, SYSTEMS

BUCKETS = (128, 512)
"""Static lengths by default, in tokens."""


class CoreMlOptions(Options, frozen=True, kw_only=True):
    """Lengths of a package's functions, and the systems that it runs on."""

    buckets: Annotated[
        tuple[int, ...], Meta(description="static lengths in tokens, as 128,512.")
    ] = ()
    flexible: Annotated[
        bool,
        Meta(description="open lengths instead of buckets; the Neural Engine is then unused."),
    ] = False
    minimum_target: Annotated[
        str | None, Meta(description="the oldest system to run on, as iOS18.")
    ] = None


def settle(options: CoreMlOptions, max_length: int) -> CoreMlOptions:
    """Returns `options` with defaults, for a model of `max_length` tokens.

    Raises TargetError for an unknown system, a bucket that is no length of the model's, buckets
    beside --flexible, and several buckets where a package can hold but one function.
    """
    system = _system(options.minimum_target)
    if options.flexible:
        if options.buckets:
            raise TargetError("coreml: --buckets and --flexible exclude each other; give one")
        return options.with_(minimum_target=system)
    buckets = tuple(sorted(set(options.buckets)))
    if not buckets:
        buckets = tuple(sorted({min(length, max_length) for length in BUCKETS}))
        if system < MULTIFUNCTION:
            buckets = buckets[-1:]
    for bucket in buckets:
        if bucket < 1:
            raise TargetError(f"coreml: a bucket of {bucket} tokens holds nothing")
        if bucket > max_length:
            raise TargetError(
                f"coreml: a bucket of {bucket} tokens is longer than the model takes ({max_length})"
            )
    if len(buckets) > 1 and system < MULTIFUNCTION:
        raise TargetError(
            f"coreml: a package for {system} holds one function, so one bucket; several need "
            f"--minimum-target {MULTIFUNCTION}"
        )
    return options.with_(buckets=buckets, minimum_target=system)


def _system(asked: str | None) -> str:
    """Returns the op set of a system by any of its names, in any case."""
    name = (asked or DEFAULT_SYSTEM).replace(" ", "").lower()
    if name not in SYSTEMS:
        known = "iOS16, iOS17, iOS18, macOS13, macOS14, macOS15"
        raise TargetError(f"coreml: unknown minimum target {asked!r}; known: {known}")
    return SYSTEMS[name]

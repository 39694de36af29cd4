"""The exceptions of this package."""

from __future__ import annotations


class GoldenError(Exception):
    """Goldens cannot be made, read or compared; the message is one line meant for a person.

    `code` is the exit status of a command line that ends with this error.
    """

    code = 3

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Unrankable(GoldenError):
    """An embedding is not finite, or zero, so it ranks no texts."""

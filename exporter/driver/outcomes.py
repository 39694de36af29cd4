"""The results and failures of an export's artifacts."""

from __future__ import annotations

from collections.abc import Sequence

from goldfold.exporter.artifact import unbuilt
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.artifact.unbuilt import Failure
from goldfold.exporter.driver.proving import Session
from goldfold.exporter.driver.request import Pair


class Outcomes:
    """The results and failures of all pairs so far."""

    def __init__(self, session: Session) -> None:
        self._out, self._scratch = session.request.out, session.scratch
        self._stages = session.stages
        self.results: dict[Pair, Result] = {}
        self.failures: dict[Pair, Failure] = {}

    def built(self, pair: Pair, result: Result) -> None:
        """Record that an artifact is in its place."""
        self.results[pair] = result
        unbuilt.clear(self._out, "-".join(pair))

    def fail(self, pairs: Sequence[Pair], error: Exception) -> None:
        """Go on without these pairs; raise where the machine is at its end."""
        if unbuilt.stops(error, self._out):
            raise error
        for pair in pairs:
            self.failures[pair] = failed = unbuilt.failure(*pair, error)
            unbuilt.write(self._out, failed, self._scratch)
            self._stages.fail(failed.name, str(failed.error))

    def returned(self, pairs: Sequence[Pair]) -> list[Result]:
        """Returns the results, in the order of `pairs`; raises the worst failure, if there is
        one."""
        done = [self.results[pair] for pair in pairs if pair in self.results]
        if self.failures:
            failed = [self.failures[pair] for pair in pairs if pair in self.failures]
            raised = unbuilt.worst(failed, len(pairs))
            raised.results, raised.failures = done, failed
            raise raised
        return done

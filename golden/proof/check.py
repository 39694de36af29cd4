"""A check that every constant of an artifact is what its derivation says, number by number.

The check shares no code with the exporter. It reads derivations (`expressions`), evaluates them
from the model's own files (`evaluate`), reads the artifact's file by the definition of its format
(`readers`), finds which of its constants is which of the program's (`matching`), and compares.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import expressions, kinds, matching, readers, relations
from goldfold.golden.proof.arithmetic import Part
from goldfold.golden.proof.evaluate import Evaluator, rows_at_once
from goldfold.golden.proof.expressions import Call, Constant, Derivations
from goldfold.golden.proof.matching import View
from goldfold.golden.proof.records import Checked, Fault, Loose, Proof
from goldfold.golden.proof.source import Source
from goldfold.golden.proof.stored import Contents, Stored

_COARSE = 2.0**-8
"""An error of a larger share of the largest number would let a wrong number pass for a right one: a
derivation that is as ill-conditioned as that proves nothing. bfloat16 rounds by half of it."""
_PROBE = 1 << 12
"""Numbers that tell whether a constant may be another one."""
_ALIKE = 64
"""Constants at most that are compared whole with a line that none of them is."""
_NOWHERE = "the artifact holds no constant that it could be"
_OTHER = "its bytes are not those of its digest"

Progress = Callable[[int, int], None]
"""Called with the bytes of constants that were compared, and with those of all."""


def check(
    artifact: Path,
    derivations: Path | str,
    source: Path | None,
    progress: Progress | None = None,
) -> Proof:
    """Returns whether the constants of an artifact follow from the model in the folder `source`;
    without it, whether their bytes have the digests that an export proved.

    `artifact` is its folder or main file, `derivations` a file or its text. Raises GoldenError, in
    one line, for derivations that are none, a tensor that is not there, a file that is damaged, cut
    or changed meanwhile. What a readable artifact holds wrong is a fault of the proof.
    """
    begun = time.perf_counter()
    derived = expressions.read(derivations)
    with ExitStack() as stack, np.errstate(all="ignore"):
        contents = stack.enter_context(closing(readers.read(artifact)))
        opened = None if source is None else stack.enter_context(closing(Source(source)))
        checks = _Check(derived, contents, opened)
        checks.run(progress or (lambda done, of: None))
        return checks.proof(begun)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """`bad` numbers or rows, and a sentence about the first."""

    how: str
    bad: int = 0
    sentence: str = ""


class _Check:
    def __init__(self, derived: Derivations, contents: Contents, source: Source | None) -> None:
        self._lines, self._contents = derived.constants, contents
        self._held = derived.held
        self._evaluator = None if source is None else Evaluator(source, self._known)
        self._chosen: dict[str, np.ndarray] = {}
        self._found: list[tuple[Constant, View | None, _Outcome]] = []
        self._claimed: set[int] = set()
        self._there: set[tuple[str, str]] = set()
        """Tensors of the lines whose constants are there."""

    def run(self, progress: Progress) -> None:
        """Compares every line with what it says."""
        matched = matching.match(self._lines, self._contents.stored, self._contents.respelt)
        self._claimed = {id(view.stored) for held in matched.values() for view in held}
        if self._evaluator is not None:
            for line in self._lines:
                self._begin(line, matched.get(line.name, []), self._evaluator)
        done, of = 0, sum(stored.size for stored in self._contents.stored)
        for line in sorted(self._lines, key=lambda one: one.name not in matched):
            views = matched.get(line.name)
            if views is None and line.name.startswith("@"):
                continue  # a number that this form need not hold
            for view in views or [self._near(line)]:
                outcome = self._outcome(line, view)
                if view is not None:
                    self._claimed.add(id(view.stored))
                    done += view.stored.size
                self._found.append((line, view, outcome))
            progress(min(done, of), of)
        self._found = [self._settled(*found) for found in self._found]
        self._claimed |= matching.copies(self._contents.stored, self._claimed)

    def _settled(
        self, line: Constant, view: View | None, outcome: _Outcome
    ) -> tuple[Constant, View | None, _Outcome]:
        """A constant may be absent where the format works its numbers out: then each tensor that it
        is made of is in a constant that is there."""
        if outcome.how != "absent" or matching.is_small(line.kind, line.shape):
            return line, view, outcome
        if not self._there:
            self._there.update(
                *(expressions.tensors(one.value) for one, held, _ in self._found if held)
            )
        if expressions.tensors(line.value) <= self._there:
            return line, view, outcome
        return line, view, _Outcome("derived", 1, _NOWHERE)

    def proof(self, begun: float) -> Proof:
        held = self._contents.stored
        free = [one for one in held if id(one) not in self._claimed]
        small = [one for one in free if _is_small(one)]
        unnamed = [
            Loose("", "bytes", (end - begin,), end - begin, f"{file.called}, byte {begin:,}")
            for file, begin, end in self._contents.unnamed()
        ]
        return Proof(
            tuple(
                Checked(line.name, not o.bad, o.how, view.stored.where if view else "nowhere")
                for line, view, o in self._found
            ),
            tuple(
                Fault(line.name, o.sentence, line.maker, self._is_changed(line, view))
                for line, view, o in self._found
                if o.bad
            ),
            (*(_loose(one) for one in free if one not in small), *unnamed),
            tuple(map(_loose, small)),
            tuple(Fault(*lost) for lost in self._contents.lost),
            self._contents.digest(),
            sum(one.size for one in held) - sum(one.size for one in free),
            sum(one.size for one in held),
            time.perf_counter() - begun,
        )

    def _is_changed(self, line: Constant, view: View | None) -> bool:
        """Returns whether a stored constant is not the one of the program. One in another form is
        compared where the form holds the program's numbers exactly."""
        return view is not None and view.digest(line.kind) not in ("", line.digest)

    def _known(self, call: Call) -> np.ndarray:
        found = self._chosen.get(call.args[2])
        if found is None or found.shape != call.args[1]:
            raise _Lost(f"the numbers chosen for it (sha256 {call.args[2][:12]}…) are not there")
        return found

    def _begin(self, line: Constant, views: list[View], evaluator: Evaluator) -> None:
        """Checks the shape of a line, and keeps the numbers that its digest stands for, if the
        artifact holds them here."""
        with _naming(line):
            if (shape := evaluator.shape(line.value)) != line.shape:
                raise GoldenError(f"it gives {list(shape)} and states {list(line.shape)}")
            relation, chain = relations.below(line.value)
            if relation is not None and relation.name in relations.BY_DIGEST:
                for view in views:
                    held = relations.undo(relation, chain, _all(view), evaluator)
                    if (found := relations.chosen(relation, held)) is not None:
                        self._chosen[relation.args[2]] = found

    def _near(self, line: Constant) -> View | None:
        """Returns the constant that a line without one is: one that was rounded to another kind,
        or the one in which the fewest numbers differ."""
        free = [one for one in self._contents.stored if id(one) not in self._claimed]
        ways = [view for one in free for view in matching.views(line, one)]
        small = self._contents.respelt and matching.is_small(line.kind, line.shape)
        if self._evaluator is None:
            held = [view for view in ways if view.stored.name in self._held]
            return held[0] if len(held) == 1 and not small else None
        if not ways or small:
            return None
        probes = [self._outcome(line, view, _PROBE).bad for view in ways]
        alike = [view for view, bad in zip(ways, probes, strict=True) if bad == min(probes)]
        return min(alike[:_ALIKE], key=lambda view: self._outcome(line, view).bad)

    def _outcome(self, line: Constant, view: View | None, most: int | None = None) -> _Outcome:
        """Compares a stored constant with its line, or its first `most` numbers."""
        if view is None:
            if self._contents.respelt or matching.is_small(line.kind, line.shape):
                return _Outcome("absent")
            return _Outcome("derived", 1, _NOWHERE)
        if self._evaluator is None:
            return _digest(line, view, held=self._held)
        with _naming(line):
            try:
                return self._compared(line, view, self._evaluator, most)
            except _Lost as error:
                return _Outcome("derived", 1, str(error))

    def _compared(
        self, line: Constant, view: View, evaluator: Evaluator, most: int | None
    ) -> _Outcome:
        relation, chain = relations.below(line.value)
        if relation is None or relation.name == "nearest":
            outcome = self._by_value(line, view, evaluator, most)
            if relation is None or outcome.bad or most is not None:
                return outcome
        if relation.name in relations.BY_DIGEST:
            known = relation.args[2] in self._chosen
            how = "digest" if relation.name == "chosen" else relation.name
            return _digest(line, view, how) if known else _Outcome(how, 1, _OTHER)
        how = "bounded" if relation.name == "steps" else "derived"
        if most is not None:
            return _Outcome(how)
        held = relations.undo(relation, chain, _all(view), evaluator)
        bad, sentence = relations.in_steps(relation, held, evaluator)
        return _Outcome(how, bad, sentence) if bad else _digest(line, view, how)

    def _by_value(
        self, line: Constant, view: View, evaluator: Evaluator, most: int | None
    ) -> _Outcome:
        """Compares numbers as they are, and the digest of the numbers that follow with the line's
        where they are the only ones that can."""
        value, numbers = line.value, view.reader()
        if value.name == "cast" and value.args[1] == line.kind and isinstance(value.args[0], Call):
            value = value.args[0]  # so that an error is one of the number before it is rounded
        bad, first, at, digest = 0, "", 0, hashlib.sha256()
        rows = line.shape[0] if line.shape else 1
        step = rows_at_once(line.shape) if most is None else rows_at_once(line.shape, most)
        for start in range(0, rows, step):
            part = evaluator.rows(value, start, min(start + step, rows))
            held = numbers(at, part.value.size).reshape(part.value.shape)
            wrong, expected = _differ(part, held, line.kind, view.stored.kind)
            if not first and wrong.any():
                where = tuple(int(i) for i in np.argwhere(wrong)[0])
                place = [start + where[0], *where[1:]] if where else []
                first = f"{_place(place)} is {held[where]} and follows as {expected[where]}"
            bad, at = bad + int(wrong.sum()), at + part.value.size
            if digest is not None and part.error is None and kinds.bits(line.kind) > 4:
                raw = kinds.narrow(part.value, line.kind)
                digest.update(np.ascontiguousarray(raw).data)
            else:
                digest = None
            if most is not None:
                break
        if bad:
            return _Outcome("derived", bad, f"{first} ({bad:,} of {at:,} numbers differ)")
        if most is not None or (digest is None and view.stored.kind != line.kind):
            return _Outcome("derived")
        if (view.digest(line.kind) if digest is None else digest.hexdigest()) != line.digest:
            return _Outcome("derived", 1, "its numbers follow, and its stated digest does not")
        return _Outcome("derived")


class _Lost(Exception):
    """A number that a line needs is nowhere in the artifact."""


@contextmanager
def _naming(line: Constant) -> Iterator[None]:
    try:
        yield
    except (GoldenError, ValueError, OverflowError) as error:
        raise GoldenError(f"line {line.line} of the derivations: {error}") from None


def _all(view: View) -> np.ndarray:
    return view.reader()(0, view.stored.count)


def _digest(
    line: Constant, view: View, how: str = "digest", held: Mapping[str, str] | None = None
) -> _Outcome:
    if view.digest(line.kind) == line.digest:
        return _Outcome(how)
    if held and held.get(view.stored.name) == view.stored.digest():
        return _Outcome(how)
    return _Outcome(how, 1, _OTHER)


def _differ(part: Part, held: np.ndarray, kind: str, stored: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns which numbers are not what follows, and what follows as the artifact would hold it.

    A number with an error may be any within it, rounded: half a unit of its kind away.
    """
    expected = kinds.rounded(part.value, kind)
    if stored != kind:
        expected = kinds.rounded(expected, stored)
    if part.error is not None:
        allowed, size = part.error, np.abs(part.wide) + part.error
        for one in {kind, stored} & kinds.FLOATS.keys():
            allowed = allowed + kinds.unit(size, one) / 2
        near = np.abs(held.astype(np.float64) - part.wide) <= allowed
        largest = np.max(np.abs(part.wide), initial=0, where=np.isfinite(allowed))
        return ~(near & (allowed <= _COARSE * largest)), expected
    if held.dtype.kind != "f":
        return held != expected, expected
    bits = f"u{held.dtype.itemsize}"
    same = np.ascontiguousarray(held).view(bits) == np.ascontiguousarray(expected).view(bits)
    return ~(same.reshape(held.shape) | (np.isnan(held) & np.isnan(expected))), expected


def _place(at: list[int]) -> str:
    if len(at) == 2:
        return f"row {at[0]:,}, column {at[1]:,}"
    return f"number {at[0]:,}" if len(at) == 1 else f"the number at {at}" if at else "it"


def _loose(stored: Stored) -> Loose:
    return Loose(stored.name, stored.kind, stored.shape, stored.size, stored.where)


def _is_small(stored: Stored) -> bool:
    inside = stored.spoken and stored.count <= matching.SMALL
    return inside or matching.is_small(stored.kind, stored.shape)

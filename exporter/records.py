"""Records of an export and its measurements: parts of a manifest, a verdict and a report.

A record is frozen, and its reader trusts no file: it checks every field and refuses an unknown one.
JSON has no infinity: every record writes and reads a figure that is not finite as the string
"Infinity".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec

if TYPE_CHECKING:
    from typing import Self

    Real = float
else:

    class Real(float):
        """A figure that may be infinite."""


INFINITE = "Infinity"
_LONGEST = 160
"""Characters of what a file says that an error repeats."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of all records. Fields are given by name."""

    def with_(self, **changes: Any) -> Self:
        """Returns the record with new values in some of its fields."""
        return msgspec.structs.replace(self, **changes)

    def plain(self) -> dict[str, Any]:
        """Returns dicts, lists, strings, numbers and "Infinity", which JSON can hold."""
        return finite(msgspec.to_builtins(self, enc_hook=_number_of))

    def to_json(self) -> str:
        """Returns a JSON document, one field per line."""
        return json.dumps(self.plain(), ensure_ascii=False, indent=1) + "\n"


_FIELDS = {
    "Object contains unknown field ": "there is no such field",
    "Object missing required field ": "it is missing",
}

R = TypeVar("R", bound=Record)


def read(kind: type[R], found: Any) -> R:
    """Returns a record from parsed JSON or TOML. Raises ValueError: the field, and what is
    wrong."""
    try:
        return msgspec.convert(found, kind, dec_hook=_real)
    except (OverflowError, RecursionError):
        raise ValueError("it holds a number that is too large, or is nested too deep") from None
    except msgspec.ValidationError as error:
        said, _, place = str(error).replace("`", "").partition(" - at ")
        place = place.removeprefix("$").lstrip(".")
        for words, instead in _FIELDS.items():
            if said.startswith(words):
                place, said = f"{place}.{said[len(words) :]}".lstrip("."), instead
        if said.startswith("Invalid enum value") and (known := _known(kind, place)):
            said = f"{said.removeprefix('Invalid enum value ')} is none of {known}"
        said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
        place = place if len(place) <= _LONGEST else f"{place[:_LONGEST]}…"
        raise ValueError(f"{place}: {said}" if place else said) from None


def read_json(kind: type[R], raw: str | bytes) -> R:
    """Returns a record from a JSON document. Raises ValueError."""
    return read(kind, parse(raw))


def parse(raw: str | bytes) -> Any:
    """Returns the values of a JSON document. Raises ValueError for invalid JSON, and for numbers
    that JSON does not allow: NaN, Infinity without quotes, 1e999."""
    try:
        found = json.loads(raw, parse_float=_number, parse_int=_whole, parse_constant=_number)
        text = raw if isinstance(raw, str) else raw.decode()
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a character (a lone surrogate)") from None


def _whole(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"{text[:20]}… has more digits than 64 bits hold")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is no number in JSON")
    return value


def finite(value: Any) -> Any:
    """Returns `value`, of dicts, lists and numbers, with "Infinity" for each number that is not
    finite."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else INFINITE
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def _number_of(value: Any) -> Any:
    """Returns a number of numpy's, or a Real, as Python's own."""
    if isinstance(value, float):
        return float(value)
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"no record holds a {type(value).__name__}")


def _real(kind: type, found: Any) -> Any:
    if kind is not Real:
        raise NotImplementedError(f"no record has a field of {kind}")
    if type(found) in (int, float):
        return Real(found)
    if found == INFINITE:
        return Real("inf")
    raise ValueError(f'it is neither a number nor "{INFINITE}"')


def _known(kind: type[Record], place: str) -> str:
    """Returns the values that a field of choices may have, in words; "" where the type does not
    tell."""
    at: Any = kind
    for name in place.replace("[...]", "").split("."):
        kinds = [one for one in (at, *_inside(at)) if isinstance(one, type)]
        owner = next((one for one in kinds if issubclass(one, msgspec.Struct)), None)
        if owner is None or name not in (hints := get_type_hints(owner)):
            return ""
        at = hints[name]
    values = [v for v in _inside(at) if isinstance(v, (str, int)) and not isinstance(v, bool)]
    return ", ".join(str(value) or '""' for value in values)


def _inside(kind: Any) -> list[Any]:
    return [one for arg in get_args(kind) for one in (arg, *_inside(arg))]


class Timing(Record, frozen=True, kw_only=True):
    """One finished stage."""

    stage: str
    seconds: float


class PassReport(Record, frozen=True, kw_only=True):
    """One pass's changes to one program; part of the manifest."""

    name: str
    equality: str
    applied: int
    refused: tuple[str, ...]
    nodes_before: int
    nodes_after: int
    parameters_before: int
    parameters_after: int
    seconds: float


class Reading(Record, frozen=True, kw_only=True):
    """The difference between one embedding and its golden (golden/compare.py, Reading)."""

    distance: Real
    """1−cos."""
    norm_error: Real
    delta: Real
    strays: int = 0
    """Of sparse vectors: the entries that are zero on one side alone."""


class TextReading(Record, frozen=True, kw_only=True):
    """The measurements of one golden text, run alone and in padded batches."""

    id: str
    tokens: int
    alone: Reading
    padded: Reading


class Figures(Record, frozen=True, kw_only=True):
    """The 1−cos of an artifact, or of one of its heads, over all golden texts; infinite where an
    embedding is not finite (golden/compare.py, Measurement)."""

    model: str
    dim: int
    normalized: bool
    worst: Real
    worst_padded: Real
    mean: Real
    mean_padded: Real
    worst_id: str
    similarity_alone: Real
    similarity_padded: Real
    """The largest error of a similarity between two texts."""

    @property
    def larger(self) -> float:
        """Returns the larger of the worst 1−cos alone and the worst padded."""
        return max(self.worst, self.worst_padded)


class Measured(Figures, frozen=True, kw_only=True):
    """The figures of an artifact, and those of each text."""

    rows: tuple[TextReading, ...]
    pairs: tuple[tuple[float, float], ...] = ()
    """(golden similarity, artifact's minus golden) of a drawn sample of pairs of texts."""


class Look(Record, frozen=True, kw_only=True):
    """Drift at one point: 1−cos over the short goldens, infinite where a value is not finite."""

    after: str
    """Name of the pass that ran last before this measurement."""
    worst: Real
    mean: Real
    worst_id: str


class LayerLook(Record, frozen=True, kw_only=True):
    """Drift of the artifact's program from the source model after one layer: 1−cos over a few
    texts, infinite where a value is not finite."""

    layer: str
    """The layer's name in the source model; the last one is `sentence_embedding`, against its
    golden."""
    worst: Real
    worst_id: str


class KindRange(Record, frozen=True, kw_only=True):
    """The range of one kind of value on the calibration texts
    (exporter/evaluate/value_roles.py)."""

    kind: str
    peak: Real
    """The largest magnitude in fp32; for attention scores, a bound."""
    scaled: Real
    """The largest magnitude in the artifact's program, after the pass scale-residual."""
    at: str
    """Name of the value that reaches the peak."""
    values: int
    """Number of values of this kind."""
    half: bool
    """Whether a value of this kind is computed in half precision, or may be."""
    bound: Real | None = None
    """The largest bound that holds for every text, of this kind's values in fp16, in the artifact's
    program; null where no value of this kind is fp16."""
    calibrated: int = 0
    """Number of this kind's values in fp16 whose bound is not below 65,504, so that calibration
    chose."""


Positive = Annotated[int, msgspec.Meta(ge=1)]


class Pace(Record, frozen=True, kw_only=True):
    """Latencies of one shape: full texts of `tokens` tokens, `batch` texts per call. Milliseconds
    per call."""

    batch: Positive
    tokens: Positive
    median: float
    p10: float
    p90: float
    calls: int

    @property
    def per_text(self) -> float:
        """Returns milliseconds per text, by the median."""
        return self.median / self.batch


class Speed(Record, frozen=True, kw_only=True):
    """The latency of an artifact on one machine (exporter/report/latency.py)."""

    shapes: tuple[Pace, ...]
    cpu: str
    processors: int
    threads: int | None
    """Threads of the runtime; None if it chose itself."""
    others: float | None
    """The share of all processors' time that other processes took during the timing; None if
    unknown."""
    beside: tuple[str, ...]
    """The artifacts that were timed in turn with this one, itself among them: only these
    compare."""
    taken: str
    """Time of the measurement, in UTC."""

    def at(self, batch: int, tokens: int) -> Pace | None:
        """Returns the latencies of one shape; None if it was not timed."""
        found = (one for one in self.shapes if (one.batch, one.tokens) == (batch, tokens))
        return next(found, None)


class Loss(Record, frozen=True, kw_only=True):
    """One metric of retrieval quality, at one embedding size (golden/judging/judge.py, Metric).
    `loss` is 1 − artifact/reference; `upper` is the upper end of its 95 % interval, null where
    nothing is resampled."""

    name: str
    dims: int
    reference: float
    artifact: float
    loss: Real
    upper: Real | None
    count: int
    """Number of queries, pairs or texts."""


class Losses(Record, frozen=True, kw_only=True):
    """The losses that a quantized artifact's errors cost its users
    (exporter/verification/losses.py). Rank agreement among the goldens is always there; the Lee
    corpus and retrieval only where they were judged."""

    figures: tuple[Loss, ...]
    limit: float | None
    """The gate: the share of retrieval's nDCG@10 that an artifact may lose; `upper` is compared
    with it."""
    judged: str | None = None
    """Time of the retrieval judgement, in UTC; null without one, and then the gate is 1−cos
    alone."""
    pairs_digest: str = ""
    """Digest of the retrieval set."""
    unusable: str = ""
    """Why nothing could be judged, where the artifact's embeddings are not finite."""
    missing: tuple[str, ...] = ()
    """Measurements that are missing, and what was judged in the artifact's place, one sentence
    each."""


Kind = Literal["trace", "pass", "rounding", "build", "unknown"]


class Location(Record, frozen=True, kw_only=True):
    """The diagnosis of one text that missed the gate. 1−cos throughout; null where not measured."""

    kind: Kind
    """The fault is in the trace or its weights, in a pass, or in the target's build or its runtime;
    or there is no fault but rounding."""
    text: str
    tokens: int
    padded: bool
    """Whether the text was run with padding behind it."""
    distance: Real | None
    """1−cos of the text's embedding."""
    pass_name: str = ""
    place: str = ""
    """The pass, and the place of its first application that breaks the text."""
    layer: str = ""
    module: str = ""
    """The first layer that drifts, and its module in the source model."""
    before: Real | None = None
    after: Real | None = None
    """The drift after the layer before, and after this one."""
    sentence: str
    """The whole diagnosis, in one paragraph."""

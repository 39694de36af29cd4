"""Records of what is proved of an artifact for every text, its constants and bounds on its values;
of what holds for most texts, by chance: figures over unseen ones; and canaries."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from goldfold.exporter.records import Real, Record

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?![\s\S])")]


class KindBounds(Record, frozen=True, kw_only=True):
    """The values of one kind that the artifact's program types fp16, each with the bound on its
    magnitude that holds for every text (exporter/evaluate/value_bounds.py)."""

    kind: str
    proved: dict[str, Real]
    """Bound by value, below 65,504."""
    calibrated: dict[str, Real]
    """Likewise of values whose bound is not below 65,504: calibration texts chose their range, and
    other texts may leave it."""


class Outside(Record, frozen=True, kw_only=True):
    """The distances, 1−cos, of golden texts of which a cut vocabulary makes other tokens: reported,
    and no gate applies to them (exporter/verification/outside.py)."""

    texts: int
    worst: Real
    worst_id: str
    mean: Real
    median: Real
    rows: dict[str, Real]
    """Each text's, by its id."""

    @property
    def sentence(self) -> str:
        """The figures in one sentence."""
        return (
            f"{self.texts} golden text{'' if self.texts == 1 else 's'} outside of the cut "
            f"vocabulary, not judged: 1−cos {self.mean:.1e} in the mean, {self.worst:.1e} at worst "
            f"({self.worst_id})"
        )


class Constants(Record, frozen=True, kw_only=True):
    """The proof of an artifact's constants (golden/proof/): how many there are of each kind."""

    source: bool = False
    """Whether they were compared with the model's tensors; else with the digests of the export."""
    derived: int = 0
    """Constants that are their derivation's value, number by number."""
    bounded: int = 0
    """Integers that lie within the steps that their derivation states."""
    digests: int = 0
    """Constants that have the digest that the export proved, or chose."""
    assumed: int = 0
    """Constants that the export computed from others in a way that no derivation follows: only
    their bytes were compared."""
    faults: int = 0
    uncovered: int = 0
    """Constants of the artifact that follow from no derivation."""
    unfound: int = 0
    """Matrices that an engine holds in no order that the checker knows: its target proved them by
    other means when it was built."""
    bytes: int = 0
    """Bytes of constants that follow from derivations, of all in the artifact."""
    of: int = 0

    @property
    def sentence(self) -> str:
        """The proof in one sentence."""
        held = self.derived + self.bounded + self.digests + self.assumed
        if not held:
            return "Nothing was compared: no reader knows the files of this target."
        against = "the model's tensors" if self.source else "the digests of its export"
        size = f"{self.bytes / 1e6:,.1f} MB"
        said = f"{held:,} constants, {size}, were compared with {against}"
        if self.faults or self.uncovered:
            return f"{said}; {self.faults + self.uncovered} are wrong."
        assumed = f"; {self.assumed} are assumed" if self.assumed else ""
        return f"{said}: every number follows{assumed}."


class Canaries(Record, frozen=True, kw_only=True):
    """Vectors of a few golden texts as the runtime of a verdict computed them: another runtime, or
    another processor, may round integers otherwise (exporter/artifact/canaries.py)."""

    runtime: str
    """The runtime and its version, as "onnxruntime 1.23.2"."""
    processor: str
    margin: Real
    """The farthest that another runtime's vector may be from these before it may miss the gate, as
    the gate's own figure of two vectors."""
    vectors: dict[str, str]
    """By the golden's id: f32, little-endian, compressed by zlib, in base64."""


class KindFigures(Record, frozen=True, kw_only=True):
    """The 1−cos of the unseen texts of one kind; infinite where an embedding is not finite."""

    kind: str
    texts: int
    worst: Real
    mean: Real


class UnseenFigures(Record, frozen=True, kw_only=True):
    """The 1−cos of an artifact over unseen texts (golden/judging/unseen.py), against the source in
    fp32; infinite where an embedding is not finite."""

    texts: int
    seed: int
    digest: str
    """Digest of the drawn texts, which are the same everywhere."""
    worst: Real
    worst_kind: str
    worst_number: int
    """The place of the worst text among the measured ones, from 0."""
    mean: Real
    share: float
    """The share of texts that the percentile is of: 0.999."""
    percentile: Real
    lower: Real | None
    upper: Real | None
    """The percentile's interval; null where there are too few texts for that end."""
    fewest: int
    """The fewest texts with an upper end."""
    confidence: float
    """The confidence of each end: 0.95."""
    limit: float
    """The gate of one text, with which the percentile is compared."""
    mean_limit: float | None
    kinds: tuple[KindFigures, ...]
    installed: tuple[KindFigures, ...] = ()
    """Figures of texts of what is installed, which differ from machine to machine; not judged."""
    installed_digest: str = ""
    left_out: int = 0
    """Texts, drawn or installed, of which the source has no embedding, for want of tokens."""
    faults: tuple[str, ...] = ()
    """Texts with other token ids than the source's, or an embedding that is not finite."""
    missing: tuple[str, ...] = ()
    """What was measured in the artifact's place, one sentence each."""
    measured: str
    """Time of the measurement, in UTC."""

    @property
    def sentence(self) -> str:
        """The figures in one line."""
        sure = f"{100 * self.confidence:.0f} %"
        low = "" if self.lower is None else f" at least {self.lower:.1e} ({sure}),"
        if self.upper is None:
            high = f" no upper end below {self.fewest:,} texts"
        else:
            high = f" at most {self.upper:.1e} ({sure})"
        limits = f"limit {self.limit:.0e}"
        limits += "" if self.mean_limit is None else f", of the mean {self.mean_limit:.0e}"
        left = f", and {self.left_out:,} that have no reference" if self.left_out else ""
        return (
            f"{self.texts:,} unseen texts{left}: {100 * self.share:g}th percentile of 1−cos "
            f"{self.percentile:.1e},{low}{high}; worst {self.worst:.1e} ({self.worst_kind}), "
            f"mean {self.mean:.1e}; {limits}"
        )


class YourTexts(Record, frozen=True, kw_only=True):
    """A user's own texts among the goldens."""

    count: Annotated[int, Meta(ge=1)]
    digest: Sha256
    private: bool
    """Whether the artifact keeps digests and embeddings instead of the texts."""


class Calibration(Record, frozen=True, kw_only=True):
    """A user's own calibration texts."""

    count: Annotated[int, Meta(ge=1)]
    digest: Sha256
    shared: Annotated[int, Meta(ge=0)]
    """Texts of the files that are goldens, and were left out."""

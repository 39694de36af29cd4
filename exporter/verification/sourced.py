"""Comparison of an artifact with its source: the tokenizer, its companions, and the contract.

An export reads the source once more (golden/witness.py), and keeps in `golden/source.json` what it
compared; a verification compares with that record, and with the source itself where it is given.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from goldfold.exporter import records, registry
from goldfold.exporter.artifact.bundle import (
    GOLDEN,
    TOKENIZER,
    Bundle,
    digest,
    proved,
    unproved,
)
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.artifact.manifest import DERIVATIONS
from goldfold.exporter.contract import Contract, Vocabulary
from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import Source, open_model
from goldfold.exporter.progress import Stages
from goldfold.exporter.system import natives
from goldfold.exporter.system.cache import open_cache
from goldfold.exporter.system.files import read_tokenizer
from goldfold.exporter.verification import clients
from goldfold.exporter.verification import unseen as unseen_texts
from goldfold.golden import source_record, tokenizer_file, vocabulary
from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import rows
from goldfold.golden.reasons import Reason
from goldfold.golden.source_record import SourceRecord, contract_faults
from goldfold.golden.store import PREDICT, Goldens
from goldfold.golden.tokenizer_file import Ids, TokenizerFile
from goldfold.golden.witness import Witness, read


@dataclass(frozen=True)
class Given:
    """The source of an artifact, where it is at hand."""

    witness: Witness
    folder: Path
    """The folder of the model whose tensors were loaded."""
    just_built: bool = False
    """Whether the artifact was built in this process, which has run its companions already."""
    unseen: unseen_texts.Texts | None = None
    """The unseen texts on which the artifact is compared with it, if on any."""


def witness_of(source: Source, stages: Stages, longest: int) -> Witness:
    """Returns the source's own tokenizer and settings, for texts of at most `longest` tokens.

    Raises GoldenError where sentence-transformers cannot load it, ModelError for files that changed
    meanwhile.
    """
    with stages("source"):
        stages.detail("sentence-transformers reads the tokenizer and the settings")
        with natives.hushed():
            found = read(
                source.loads,
                trust_remote_code=source.trusted,
                longest=longest,
                task=source.task,
                route=source.route,
            )
        source.check_unchanged()
        stages.note(f"{len(found.tokenizer.vocabulary):,} tokens, {len(found.drawn):,} drawn texts")
    return found


class SourceModel:
    """A source that artifacts are compared with: it is read once for all of them.

    `unseen` is the number of unseen texts (golden/judging/unseen.py) on which `verify` compares
    embeddings with it as well, at most 10,000; 0 is none.
    """

    def __init__(self, model: str | Path, trust_remote_code: bool = False, unseen: int = 0) -> None:
        self.model, self._trusted, self._count = model, trust_remote_code, unseen
        self._texts: dict[str, unseen_texts.Texts | None] = {}
        self._source: dict[str, Source] = {}
        self._read: dict[tuple[str, int], Witness] = {}

    def source(self, stages: Stages, route: str = "") -> Source:
        """Returns the opened model, or one of its routes, all its weights read once. Raises
        ModelError."""
        if route not in self._source:
            with stages("open"):
                found = open_model(self.model, trust_remote_code=self._trusted, route=route or None)
                self._source[route] = ready(found, stages, open_cache(True))
        return self._source[route]

    def given(self, opened: Bundle, goldens: Goldens, stages: Stages) -> Given:
        """Returns the source for an artifact. Raises ModelError for a model that cannot be opened,
        UsageError for one that is not the artifact's."""
        unseen_texts.check(self._count)
        source = self.source(stages, opened.manifest.contract.route)
        if source.fingerprint != opened.manifest.origin.fingerprint:
            raise UsageError(f"{opened.path} was not exported from {source.name}")
        asked = source.route, goldens.max_length
        if asked not in self._read:
            self._read = {asked: witness_of(source, stages, goldens.max_length)}
        if source.route not in self._texts:
            self._texts[source.route] = unseen_texts.draw(source, self._count)
        return Given(self._read[asked], source.loads, unseen=self._texts[source.route])


def stated(
    witness: Witness, made: Contract, max_length: int | None = None, dims: Sequence[int] = ()
) -> Contract:
    """Returns the contract that an export for texts of `max_length` tokens, with the outputs
    `dims`, owes its caller, as the source states it: only names of tensors are those of `made`."""
    facts = witness.contract(max_length or witness.longest, dims)
    return records.read(Contract, {**made.plain(), **facts})


def settle(folder: Path, contract: Contract) -> tuple[str, ...]:
    """Remove what other clients would misread (clients.settle). Returns notes for the manifest."""
    file = TokenizerFile(read_tokenizer(folder / TOKENIZER))
    return clients.settle(folder, file, contract)


def facing(witness: Witness, tokenizer: str, contract: Contract) -> Witness:
    """Returns the source as a witness for an artifact with this tokenizer.json and contract: itself
    unless the vocabulary is cut. Raises GoldenError where the tokenizer is no cut of the
    source's."""
    found, fault = _facing(witness, TokenizerFile(tokenizer), contract)
    if fault is not None:
        raise GoldenError(f"{TOKENIZER} is no cut of the source's: {fault}")
    return found


def _facing(
    witness: Witness, file: TokenizerFile, contract: Contract
) -> tuple[Witness, str | None]:
    said = contract.cut
    if said is None:
        return witness, None
    holds = (lambda text: said.outside(text) is None) if said.characters else None
    return vocabulary.cut(witness, file, _plain(said), holds)


def _plain(said: Vocabulary) -> dict[str, Any]:
    return json.loads(json.dumps(said.plain()))


def texts_of(witness: Witness) -> dict[str, Ids]:
    """Returns the texts that companions are compared on, and the source's ids of them."""
    return {**witness.tokenizer.made(witness.tokenizer.spelt), **witness.drawn}


def keep(
    folder: Path,
    witness: Witness,
    contract: Contract,
    target: str,
    fingerprint: str,
    again: Callable[[Path], None],
) -> None:
    """Write the record of what was compared into an artifact that is whole but for its manifest.
    `again` writes companions once more, for the contract of the source: the record has theirs."""
    names = (*clients.FILES, *registry.target(target).companion_files)
    with tempfile.TemporaryDirectory() as scratch:
        again(Path(scratch))
        owed = {path.name: digest(path) for path in Path(scratch).iterdir()}
    record = SourceRecord(
        fingerprint=fingerprint,
        contract=_json(contract),
        tokenizer=digest(folder / TOKENIZER),
        drawn=tokenizer_file.digest(witness.drawn),
        tokenizers=version("tokenizers"),
        companions={
            name: owed.get(name) or digest(folder / name)
            for name in names
            if (folder / name).is_file()
        },
    )
    source_record.save(record, folder / GOLDEN)


def reasons(
    encoder: Encoder,
    goldens: Goldens,
    stages: Stages,
    given: Given | None = None,
) -> tuple[Reason, ...]:
    """Returns the reasons why the texts of an artifact do not become the source's tokens, or its
    contract is not the source's. Raises ArtifactError for a record that cannot be read."""
    opened = encoder.bundle
    witness = None if given is None else given.witness
    again = given is None or not given.just_built
    with stages(f"tokens {opened.name}"):
        raw, record = _raw(opened), proved(opened.path)
        found = [*unproved(opened.path, opened.manifest)]
        if witness is not None and opened.manifest.contract.cut is not None:
            try:
                contract = opened.manifest.contract
                own = TokenizerFile(raw)
                places = vocabulary.Places(witness.tokenizer, own)
                witness, fault = _facing(witness, own, contract)
                derivations = opened.path / DERIVATIONS
                if fault is None and derivations.is_file():
                    fault = rows.fault(derivations, places.kept[: contract.vocab_size])
            except GoldenError as error:
                raise ArtifactError(f"{opened.path} is damaged: {error}") from None
            if fault is not None:
                note = f"{TOKENIZER} and the tables are no cut of the source's: {fault}."
                found.append(Reason("tokenizer", note=note))
        found += (one for one in _contract(opened, record, goldens, witness) if one not in found)
        # A tokenizer of which nothing is known is not opened: it may be a stranger's.
        known = record is not None and hashlib.sha256(raw).hexdigest() == record.tokenizer
        if known or witness is not None:
            try:
                file = TokenizerFile(raw)
                found += _tokenizer(file, record, witness)
                found += _own(encoder, file, witness)
                found += _companions(opened, file, goldens, again)
            except GoldenError as error:
                raise ArtifactError(f"{opened.path} is damaged: {error}") from None
        how = "the record of its export" if witness is None else "the source's own tokenizer"
        stages.note(f"compared with {how}: {'the same' if not found else 'it differs'}")
    return tuple(found)


def readable(opened: Bundle, goldens: Goldens) -> Goldens:
    """Returns the goldens that an artifact of a changed contract can still read. Raises
    ArtifactError, naming the change, where it reads none."""
    length = opened.manifest.contract.max_length
    if all(len(case.token_ids) <= length for case in goldens.cases):
        return goldens
    left = goldens.within(length)
    if not left.cases:
        raise _changed(opened, f"its goldens are longer than {length} tokens")
    return left


@contextmanager
def contract_first(opened: Bundle) -> Iterator[None]:
    """Turn an error of running the artifact into one that names the contract, where that is not
    what the export proved."""
    try:
        yield
    except (UsageError, GoldenError) as error:
        raise _changed(opened, str(error)) from error


def _changed(opened: Bundle, said: str) -> ArtifactError:
    found = [one.sentence for one in unproved(opened.path, opened.manifest)]
    return ArtifactError(f"{opened.path} is damaged: {' '.join(found) or said}")


def _raw(opened: Bundle) -> bytes:
    try:
        raw = read_tokenizer(opened.path / TOKENIZER)
    except OSError as error:
        raise ArtifactError(f"{opened.path / TOKENIZER}: {error.strerror}") from None
    opened.check_bytes(TOKENIZER, raw)
    return raw


def _json(contract: Contract) -> dict[str, Any]:
    return json.loads(json.dumps(contract.plain()))


def _contract(
    opened: Bundle, record: SourceRecord | None, goldens: Goldens, witness: Witness | None
) -> Iterator[Reason]:
    contract = opened.manifest.contract
    if record is None and witness is None:
        note = (
            f"{GOLDEN}/{source_record.FILE} is missing, so nothing says what the source makes of "
            "texts; export it again, or name the source with --model."
        )
        yield Reason("unproved", note=note)
    if witness is not None:
        owed = stated(witness, contract, contract.max_length, (contract.dim, *contract.heads))
        for note in contract_faults(_json(contract), _json(owed)):
            yield Reason("contract", note=note)
    if contract.normalized and not goldens.normalized:
        note = "The manifest says normalized true; the golden embeddings have other norms."
        yield Reason("contract", note=note)


def _tokenizer(
    file: TokenizerFile, record: SourceRecord | None, witness: Witness | None
) -> Iterator[Reason]:
    """Without the source, the file is the one that the export compared: the same bytes and the same
    library are the same function, and another library gives the drawn texts their ids again."""
    if witness is not None:
        if said := witness.differs(file):
            yield Reason("tokenizer", note=f"{TOKENIZER} is not the source's: {said}.")
    elif (
        record is not None
        and version("tokenizers") != record.tokenizers
        and tokenizer_file.digest(file.made(file.drawn)) != record.drawn
    ):
        note = (
            f"tokenizers {version('tokenizers')} gives drawn texts other ids than tokenizers "
            f"{record.tokenizers} did."
        )
        yield Reason("tokenizer", note=note)


def _own(encoder: Encoder, file: TokenizerFile, witness: Witness | None) -> Iterator[Reason]:
    """What `embed` makes of the drawn texts, compared with the file that it reads."""
    if witness is None:
        return
    length = encoder.contract.length_of("")
    if encoder.contract.frame is None or encoder.contract.task == "scores":
        wanted = {text: ids for text, ids in file.made(file.drawn).items() if len(ids) <= length}
        made = dict(zip(wanted, encoder.called(list(wanted), ""), strict=True))
        if said := tokenizer_file.first_difference(wanted, made):
            yield Reason("tokenizer", note=f"embed gives {said}.")
    pairs = {pair: ids for pair, ids in witness.pairs.items() if len(ids) <= length}
    for call, texts in witness.called.items():
        wanted = {text: ids for text, ids in texts.items() if len(ids) <= length or call}
        found = dict(zip(wanted, encoder.called(list(wanted), call), strict=True))
        if said := tokenizer_file.first_difference(wanted, found):
            yield Reason("tokenizer", note=f"{call or 'embed'} gives {said}.")
    if pairs:
        found = dict(zip(pairs, encoder.called(list(pairs), PREDICT), strict=True))
        if said := tokenizer_file.first_difference(_joined(pairs), _joined(found)):
            yield Reason("tokenizer", note=f"predict gives {said}.")


def _joined(pairs: Mapping[tuple[str, str], Sequence[int]]) -> dict[str, Sequence[int]]:
    """Returns pairs by one text each, for messages."""
    return {" | ".join(pair): ids for pair, ids in pairs.items()}


def _companions(
    opened: Bundle, file: TokenizerFile, goldens: Goldens, again: bool
) -> Iterator[Reason]:
    if said := clients.fault(opened.path, file, opened.manifest.contract):
        yield Reason("companion", note=f"{clients.SETTINGS}: {said}.")
    if again:
        yield from _differing(opened, file, goldens)


def _differing(opened: Bundle, file: TokenizerFile, goldens: Goldens) -> Iterator[Reason]:
    """Yields how the tokenizers beside tokenizer.json, `file`, differ from it."""
    manifest = opened.manifest
    runs = registry.target(manifest.target).companions(opened.path, manifest.contract)
    texts = _texts(file, manifest.contract, goldens) if runs else {}
    for name, run in runs.items():
        try:
            made = dict(zip(texts, run(list(texts)), strict=True))
            said = tokenizer_file.first_difference(texts, made)
        except ArtifactError as error:
            yield Reason("companion", note=f"{name}: {error}.")
        else:
            if said:
                yield Reason("companion", note=f"{name} gives {said}.")


def _texts(file: TokenizerFile, contract: Contract, goldens: Goldens) -> dict[str, Ids]:
    """Returns all texts for a companion: those that the artifact can embed, uncut, and the
    goldens."""
    length, size = contract.length_of(""), contract.vocab_size
    made = {**file.made(file.spelt), **file.made(file.drawn)}
    short = {t: ids for t, ids in made.items() if len(ids) <= length and max(ids, default=0) < size}
    return {**short, **{c.prompt + c.text: c.token_ids for c in goldens.cases if not c.call}}

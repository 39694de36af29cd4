"""The cut of a vocabulary within an export: the tokenizer, the graph, the contract and the goldens
change together here, and nowhere else.

The graph is cut after calibration and quantization, so that an artifact's numbers are those of the
uncut one, to the bit, whatever the precision: its ids are looked up in the list of kept ids, and
gather-kept-rows then leaves the list out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from goldfold.exporter.contract import INPUT_IDS, Contract, Vocabulary
from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend import characters, vocabulary, vocabulary_drawn
from goldfold.exporter.frontend.tokens import Tokens
from goldfold.exporter.frontend.vocabulary import Cut
from goldfold.exporter.frontend.vocabulary_corpus import by_corpus
from goldfold.exporter.ir import derivation
from goldfold.exporter.ir.program import Program, add_constant, mark_makers
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.passes.rewriting.writer import Writer
from goldfold.exporter.progress import Stages
from goldfold.golden import vocabulary as judge
from goldfold.golden.store import Case, Goldens
from goldfold.golden.tokenizer_file import TokenizerFile

DRAWN = 100_000
"""Number of ids on which an export compares the two tokenizers: a second or two."""
LINES = 48
"""Number of held-out lines of a corpus that become goldens."""


@dataclass(frozen=True)
class Planned:
    """A cut, and the texts that are to be goldens beside the usual ones."""

    cut: Cut
    texts: tuple[str, ...] = ()


def plan(
    program: Program, scripts: tuple[str, ...], corpus: Path | None, stages: Stages
) -> Planned | None:
    """Returns the cut of the program's vocabulary that was asked for; None if none was.

    Raises UsageError for a model or a tokenizer that cannot be cut, and RewriteError where a drawn
    text has other ids than it should have.
    """
    if not scripts and corpus is None:
        return None
    contract, flag = program.contract, "--scripts" if scripts else "--vocabulary"
    if contract.task == "sparse" and not contract.units:
        raise UsageError(
            f"{flag}: {contract.model} gives a weight for each token of its vocabulary, which "
            "cannot be cut"
        )
    with stages("cut"):
        texts = [*contract.prompts.values()]
        if contract.frame is not None:
            texts += [contract.frame.before, contract.frame.between, contract.frame.after]
        fixed = list(_ids(contract))
        held: tuple[str, ...] = ()
        if corpus is not None:
            found, measured = by_corpus(program.tokenizer, corpus, fixed, texts)
            said, held = measured.sentence, measured.lines
        else:
            found = vocabulary.by_scripts(program.tokenizer, scripts, fixed, texts)
            same = vocabulary_drawn.compare(program.tokenizer, found, DRAWN)
            said = f"{same:,} drawn ids are the same"
        rows = len(found.rows(contract.vocab_size))
        stages.note(f"{rows:,} of {contract.vocab_size:,} tokens; {said}")
    return Planned(found, held[:: max(1, len(held) // LINES)][:LINES])


def _ids(contract: Contract) -> Iterator[int]:
    """Yields the ids that the contract names."""
    yield contract.pad_id
    if contract.separator is not None:
        yield contract.separator
    if contract.tokenwise is not None and contract.tokenwise.filler is not None:
        yield contract.tokenwise.filler
    if contract.frame is not None:
        yield from contract.frame.suffix


def contract_of(contract: Contract, cut: Cut) -> Contract:
    """Returns the contract of a program with the cut vocabulary."""

    def new(id_: int) -> int:
        found = cut.renumbered([id_])
        return found[0] if found else 0

    changes: dict = {
        "vocab_size": len(cut.rows(contract.vocab_size)),
        "pad_id": new(contract.pad_id),
        "vocabulary": Vocabulary(
            scripts=cut.scripts,
            characters=characters.ranges(cut.inside),
            kept=len(cut.kept),
            of=cut.of,
            digest=cut.digest,
            corpus=cut.corpus,
        ),
    }
    if contract.separator is not None:
        changes["separator"] = new(contract.separator)
    if contract.frame is not None:
        suffix = tuple(new(id_) for id_ in contract.frame.suffix)
        changes["frame"] = contract.frame.with_(suffix=suffix)
    how = contract.tokenwise
    if how is not None:
        skipped = {
            name: tuple(found[0] for id_ in getattr(how, name) if (found := cut.renumbered([id_])))
            for name in ("skipped_in_queries", "skipped_in_documents")
        }
        filler = None if how.filler is None else new(how.filler)
        changes["tokenwise"] = how.with_(filler=filler, **skipped)
    return contract.with_(**changes)


def apply(program: Program, cut: Cut | None, passes: Pipeline) -> None:
    """Give `program` the cut vocabulary. Changes it in place; nothing without a cut."""
    if cut is None:
        return
    graph = program.graph
    ids = next(value for value in graph.inputs if value.name == INPUT_IDS)
    kept = cut.rows(program.contract.vocab_size)
    readers = [(node, at) for node, at in ids.uses() if node.op_type != "Shape"]
    if readers:
        held = add_constant(graph, "vocabulary.kept", kept, derivation.literal(kept))
        write = Writer(next(iter(graph)))
        old = write("Gather", held, ids, name=f"{INPUT_IDS}.source", type=ids.type, shape=ids.shape)
        for node, at in readers:
            node.replace_input_with(at, old)
    mark_makers(graph, "cut")
    program.contract = contract_of(program.contract, cut)
    program.tokenizer, program.kept = cut.tokenizer, cut.kept
    program.notes = [*program.notes, *(f"The vocabulary: {note}." for note in cut.notes)]
    passes.run(program, pipeline.cut())


def split(
    goldens: Goldens, tokenizer: str, cut: Cut | None, contract: Contract
) -> tuple[Goldens, Goldens | None]:
    """Returns the goldens by which an artifact is judged, under its own ids, and those of texts
    that may lose their tokens, which are reported. `contract` is the uncut program's. Raises
    UsageError where no golden is left to judge by."""
    if cut is None:
        return goldens, None
    new = contract_of(contract, cut)
    tokens = Tokens(cut.tokenizer, new)
    places = judge.Places(TokenizerFile(tokenizer), TokenizerFile(cut.tokenizer))

    def made(case: Case) -> tuple[int, ...]:
        given = case.input if case.call else case.prompt + case.text
        return tuple(tokens.called([given], case.call)[0])

    inside, outside = judge.split(goldens, places, made, holds_of(new))
    if not inside.cases:
        raise UsageError(
            f"no golden text keeps its tokens in {new.cut and new.cut.scripts}, so "
            "nothing would show that the artifact is right; give more scripts"
        )
    return inside, outside


def holds_of(contract: Contract) -> judge.Holds | None:
    """Returns whether a text must keep its tokens, as a function; None where its tokens decide."""
    said = contract.cut
    if said is None or not said.characters:
        return None
    return lambda text: said.outside(text) is None

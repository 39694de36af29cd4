"""Trace a whole SentenceTransformer: Transformer → Pooling → Dense … → Normalize, in one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import onnx_ir as ir
import torch

from goldfold.exporter.contract import TOKEN_EMBEDDINGS, Contract, Frame, Words
from goldfold.exporter.errors import ModelError, RewriteError
from goldfold.exporter.frontend.framed import framed
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.frontend.tokens import Tokens
from goldfold.exporter.frontend.trace import (
    attention,
    experts,
    late,
    lengths,
    own_code,
    prompts,
    routes,
    scoring,
    sparse,
    static,
    towers,
)
from goldfold.exporter.frontend.trace.around import cause, lean, placed, quiet, unpanicked
from goldfold.exporter.frontend.trace.boundary import at_the_end
from goldfold.exporter.frontend.trace.checkpoint import (
    Report,
    check,
    check_shapes,
    reached,
    reported,
)
from goldfold.exporter.frontend.trace.lower import lower
from goldfold.exporter.frontend.trace.modules import (
    Leading,
    is_foreign,
    is_unit,
    stage_of,
)
from goldfold.exporter.frontend.trace.names import canonical
from goldfold.exporter.frontend.trace.reasons import sentence, why
from goldfold.exporter.frontend.trace.whole import Whole
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import BATCH, TOKENS, Program
from goldfold.golden.tasks import MULTI, SCORES, SPARSE

Progress = Callable[[str], None]
Loaded = Callable[[Words], None]


def trace(
    source: Source,
    *,
    max_length: int | None = None,
    progress: Progress = lambda text: None,
    loaded: Loaded = lambda words: None,
) -> Program:
    """Load the model behind `source` in float32 and trace it into a Program.

    The contract has the model's own lengths, whatever `max_length`: this is the longest text to
    expect, for models whose own length cannot be supported, or is not declared. `loaded` is called
    with the model's tokenizer as soon as that is there, long before the graph is; it is called
    again where the model is loaded again.

    Attention goes through goldfold.BandAttention where the model allows it and is eager where it
    does not; the Program's notes say which and why. Raises ModelError if the model cannot be
    traced.
    """
    with lean(), unpanicked(source), placed(source):
        if source.static:
            return _trace(source, "eager", max_length, progress, loaded)
        try:
            return _trace(source, attention.NAME, max_length, progress, loaded)
        except attention.Refused as refusal:
            note = f"traced with eager attention, masks included: {refusal}"
        progress(note)
        program = _trace(source, "eager", max_length, progress, loaded)
    program.notes.append(note)
    return program


def _trace(
    source: Source,
    implementation: str,
    max_length: int | None,
    progress: Progress,
    loaded: Loaded,
) -> Program:
    progress("loading the model")
    model, report = _load(source, implementation)
    check_shapes(report, source)
    reader = static if source.static else lengths
    with quiet():  # of queries that are cut, which is what is looked at
        longest = reader.settle(model, max_length)
    text, pad_id, rows, frame = _tokenizer(model, source)
    plain = longest.by_task.get("", longest.most)
    loaded(Words(text, plain, pad_id, reader.side(model), source.task, frame is not None))
    facts = scoring.facts_of(model) if source.task == SCORES else scoring.Facts()
    whole = _whole(model, source, facts)
    mixture = experts.widen(whole)
    unpooled = prompts.unpooled(model)
    if isinstance(whole, Whole):
        whole.skips = tuple(sorted(set(unpooled.values())))
    lookup = isinstance(whole, sparse.Static)
    stages = list(whole.stages)
    with quiet():
        lengths.fill_tables(getattr(whole, "transformer", None), longest.most)

    with attention.registered(longest.most) as recorder, quiet():
        progress("tracing with torch.export")
        try:
            exported = _export(whole, longest.most)
        except ModelError as error:
            if implementation == "eager":
                raise
            # A model that asks for our mask and then computes attention itself fails on it.
            raise attention.Refused(f"with our mask, {error}") from error
        names = {
            f"{whole.inside}{name}" for name in reached(exported, f"transformer.{whole.within}")
        }
        names |= {f"{whole.head}.{name}" for name in reached(exported, sparse.HEAD)}
        notes = check(report, names, source)
        if implementation == attention.NAME and not recorder.calls and not lookup:
            raise attention.Refused("its attention does not go through transformers' interface")
        progress("translating to ONNX with torch.onnx")
        graph_model = lower(exported)

    nodes = list(dialect.band_attentions(graph_model.graph))
    _check_attention(nodes, recorder, "" if lookup else implementation)
    contract = Contract(
        model=source.name,
        output=TOKEN_EMBEDDINGS if source.task == MULTI else facts.output,
        task=cast("Any", source.task),
        route=source.route,
        similarity=getattr(model, "similarity_fn_name", None) or "cosine",
        tokenwise=late.facts_of(model) if source.task == MULTI else None,
        units=sparse.units(model) if source.task == SPARSE else 0,
        labels=facts.labels,
        activation=facts.activation,
        separator=facts.separator,
        frame=facts.frame or frame,
        dim=_static_dim(graph_model),
        max_length=longest.most,
        vocab_size=rows,
        pad_id=pad_id,
        normalized=is_unit(stages),
        prompts={name: prompt or "" for name, prompt in model.prompts.items()},
        default_prompt_name=model.default_prompt_name,
        unpooled=unpooled,
        lengths=longest.by_task,
        truncation_side=reader.side(model),
    )
    checks = scoring.check if source.task == SCORES else reader.check
    with quiet():
        checks(model, Tokens(text, contract), contract)
    canonical(graph_model, contract.outputs)
    said = [*longest.notes, *notes, *([mixture] if mixture else [])]
    said += [] if frame is None else [_FRAMED]
    return Program(graph_model, contract, text, said, lasting=not longest.borrowed)


_FRAMED = (
    "A chat template stands around every text: goldfold's load adds it, and a client that reads "
    "tokenizer.json alone must add it, as the contract's frame says."
)


def load_whole(source: Source) -> Whole | sparse.Static:
    """Returns the model in torch, with eager attention, under the names that traced nodes bear."""
    model = _load(source, "eager")[0]
    facts = scoring.facts_of(model) if source.task == SCORES else scoring.Facts()
    whole = _whole(model, source, facts)
    experts.widen(whole)
    return whole


def _whole(model, source: Source, facts: scoring.Facts) -> Whole | sparse.Static:
    if source.static:
        stages = [static.POOL, *_stages(model)]
        return Whole(static.trunk(model, source), static.VECTORS, stages).eval()
    if source.task == SPARSE and sparse.is_static(model):
        return sparse.Static(model[0].weight).eval()
    trunk: Any = model[0].auto_model
    trunk.config.use_cache = False
    if source.task == SPARSE and (kept := sparse.units(model)):
        last = sparse.Autoencoder(model[-1], kept)
        return Whole(trunk, _output_of(model[0]), [*_stages(list(model)[:-1]), last]).eval()
    if source.task == SPARSE:
        with lengths.eager(trunk):
            inner, output, stages, head = sparse.parts_of(model)
        whole = Whole(inner, output, stages)
        whole.head = head
        return whole.eval()
    if facts.logits:
        inner, output, stages = scoring.parts_of(model)
        whole = Whole(inner, output, stages, facts.separator)
        if inner is not trunk:
            whole.inside = f"{trunk.base_model_prefix}."
        return whole.eval()
    if type(model).__name__ == "MultiVectorEncoder":
        return Whole(trunk, _output_of(model[0]), late.stages_of(model)).eval()
    if is_foreign(model[0]):
        own = own_code.trunk_of(model[0])
        whole = Whole(own, TOKEN_EMBEDDINGS, _stages(model))
        whole.within = own.inside
        return whole.eval()
    if towers.is_tower(model[0]):
        whole = Whole(trunk, towers.output_of(model[0]), _stages(model))
        whole.method = towers.TEXT
    else:
        whole = Whole(trunk, _output_of(model[0]), _stages(model), facts.separator)
    filling = towers.filling_of(model)
    if filling is not None and (filling.seen or whole.method == towers.TEXT):
        whole.filling = filling  # padding that nothing sees changes no vector
    return whole.eval()


def _stages(model) -> list[torch.nn.Module]:
    stages = [s for i in range(1, len(model)) if (s := stage_of(model[i], i)) is not None]
    if getattr(model, "truncate_dim", None) is not None:
        stages.append(Leading(model.truncate_dim))
    return stages


_CLASSES = {SCORES: "CrossEncoder", SPARSE: "SparseEncoder", MULTI: "MultiVectorEncoder"}


def _load(source: Source, implementation: str) -> tuple[Any, Report]:
    import sentence_transformers

    kind = _CLASSES.get(source.task, "SentenceTransformer")
    try:
        with quiet(), attention.registered(1), reported() as report:
            model = getattr(sentence_transformers, kind)(
                str(source.loads),
                device="cpu",
                local_files_only=True,
                trust_remote_code=source.trusted,
                model_kwargs={
                    "attn_implementation": implementation,
                    "dtype": torch.float32,
                    "use_safetensors": None if source.trusted else True,
                },
            )
            model = routes.narrowed(model, source.route)
            own_code.check(model[0])
            report = report.of(getattr(model[0], "auto_model", None))
    except ModelError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {sentence(error)}"
        if isinstance(error, KeyError) and error.args == (attention.NAME,):
            raise attention.Refused("its class has a table of attentions of its own") from error
        if implementation == attention.NAME:
            raise attention.Refused(f"it does not load with our attention ({said})") from error
        raise ModelError(f"sentence-transformers cannot open {source.path}: {said}") from error
    if source.task == MULTI and not source.modules[-1].configured:
        report.unread -= late.PROJECTION
    modality = getattr(model[0], "modality_config", {"text": {}})
    if "text" not in modality:
        raise ModelError(
            f"{source.name} takes {', '.join(map(str, modality))} as input; only text is supported"
        )
    return model, report


def _tokenizer(model, source: Source) -> tuple[str, int, int, Frame | None]:
    """Returns the tokenizer as its Rust library writes it, the id of its padding token, the rows of
    the model's table, and what a chat template puts around a text. Raises ModelError for a
    tokenizer written in Python."""
    if source.static:
        return static.tokenizer(model), *static.ids(model), None
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"its tokenizer {type(model.tokenizer).__name__} has no tokenizer.json form; "
            "save a fast tokenizer with the model"
        )
    backend.no_padding()
    backend.no_truncation()
    pad_id = int(model.tokenizer.pad_token_id or 0)
    if source.task == SPARSE and not sparse.is_csr(model):
        text = sparse.plain_tokenizer(model, backend.to_str(pretty=False))
        return text, pad_id, sparse.entries(model), None
    rows = towers.entries(model[0].auto_model)
    if source.task == SCORES:
        return backend.to_str(pretty=False), pad_id, rows, None
    text, frame = framed(model, source.task)
    return text, pad_id, rows, frame


def _output_of(trunk: Any) -> str:
    """Returns the name of the transformer's own output. Raises ModelError where the output is no
    plain forward pass to one vector per token."""
    ways = getattr(trunk, "modality_config", {})
    how = ways.get("message") or ways.get("text", {})  # texts become messages where they can
    method, made = how.get("method", "forward"), getattr(trunk, "module_output_name", None)
    if method != "forward" or made not in (None, "token_embeddings"):
        raise ModelError(
            f"its Transformer gives {made!r} by {method!r}; only token_embeddings by forward are "
            "supported"
        )
    return how.get("method_output_name") or "last_hidden_state"


def _export(whole: torch.nn.Module, max_length: int) -> torch.export.ExportedProgram:
    # Batch 2 with one padded text: batch 1 would be specialised away.
    length = min(7, max_length)
    ids = torch.full((2, length), 5, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, length // 2 + 1 :] = 0
    batch = torch.export.Dim(BATCH, min=1, max=1 << 16)

    def export(most: int) -> torch.export.ExportedProgram:
        shapes = {0: batch, 1: torch.export.Dim(TOKENS, min=1, max=most)}
        with torch.no_grad():
            return torch.export.export(
                whole, (ids, mask), dynamic_shapes=(shapes, shapes), strict=False
            )

    try:
        return at_the_end(export, max_length)
    except attention.Refused:
        raise
    except Exception as error:
        # torch wraps what our attention function raises; the sentence is what matters.
        refusal = cause(error, attention.Refused)
        if refusal is not None:
            raise refusal from None
        raise ModelError(f"torch.export cannot trace this model: {why(error)}") from error


def _check_attention(
    nodes: list[ir.Node], recorder: attention.Recorder, implementation: str
) -> None:
    """Check that there is one node per call, and that each node has the arguments of its call."""
    if implementation != attention.NAME:
        return
    found = [(band.window, band.causal) for band in map(dialect.Band.of, nodes)]
    # torch.export may run a layer's Python more than once; each run records the same layers again.
    runs, rest = divmod(len(recorder.calls), max(len(nodes), 1))
    told = [(mask.window, mask.causal) for mask in recorder.calls]
    if rest or runs < 1 or told != found * runs:
        raise RewriteError(
            f"{len(recorder.calls)} attention calls became {len(nodes)} BandAttention nodes, "
            "or changed their masks on the way"
        )


def _static_dim(model: ir.Model) -> int:
    shape = model.graph.outputs[0].shape
    dim = shape[-1] if shape is not None else None
    if not isinstance(dim, int):
        raise ModelError(f"the embedding's size is not fixed: its shape is {shape}")
    return dim

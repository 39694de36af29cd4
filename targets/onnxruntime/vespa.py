"""The layout of Vespa: the files of its `hugging-face-embedder` and the lines for services.xml.

Vespa takes an output of two axes with the pooling strategy `none`, but packs embeddings into bits
(a field of int8) from the third axis alone. So the output gets an axis of one token, [texts, 1,
size], of which `cls` returns the very same numbers; no weight changes. A model that is named by its
path in an application arrives at Vespa without the files beside it, so the graph holds its weights.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, Contract, Served
from goldfold.exporter.errors import TargetError
from goldfold.exporter.ir import external_data
from goldfold.exporter.ir.protobuf import MODEL, field, fields, header
from goldfold.exporter.system.names import slug
from goldfold.targets.onnxruntime import layouts

FOLDER, SERVICES, README = "models", "services.xml", "README.md"
HIDDEN = "last_hidden_state"
"""The output's name, which is Vespa's default."""
LIMIT = 2_000_000_000
"""The most bytes of a file, below the two gigabytes of protobuf."""
_FLOAT, _INT64 = 1, 7
_GRAPH, _NODE, _INITIALIZER, _OUTPUT = 7, 1, 5, 12
_DISTANCES = {"dot": "dotproduct", "euclidean": "euclidean"}


def lay_out(served: Sequence[Served], out: Path) -> tuple[str, ...]:
    """Write the layout of one artifact."""
    one = layouts.single(served)
    contract = one.contract
    layouts.link_texts(one, out, but=(SERVICES, README, FOLDER, *layouts.TOKENIZER_FILES))
    layouts.link(one.folder / layouts.TOKENIZER_FILES[0], out / FOLDER / "tokenizer.json")
    graph = external_data.read(one.folder / MODEL)
    external_data.spans(graph, one.folder)
    pieces = external_data.rewritten(with_token_axis(graph, contract), lambda span: None)
    if external_data.size(pieces) > LIMIT:
        raise TargetError(
            f"{one.folder} has {external_data.size(pieces) / 1e9:.1f} GB, and Vespa reads a model "
            "of an application from one file of at most 2 GB; export a smaller precision, as int8"
        )
    file = out / FOLDER / MODEL
    external_data.write(pieces, one.folder, file)
    layouts.compare(one, file, {contract.output: HIDDEN})
    name = component(contract.model)
    prepended, fault = prepend(contract)
    component_lines = layouts.filled(
        SERVICES,
        NAME=name,
        FOLDER=FOLDER,
        LENGTH=str(contract.length_of("")),
        IDS=INPUT_IDS,
        MASK=ATTENTION_MASK,
        OUTPUT=HIDDEN,
        PREPEND=prepended,
    )
    layouts.write_text(out / SERVICES, component_lines)
    cosine = "prenormalized-angular" if contract.normalized else "angular"
    layouts.write_text(
        out / README,
        layouts.filled(
            "vespa.md",
            NAME=name,
            DIM=str(contract.dim),
            BITS=str(contract.dim // 8),
            METRIC=_DISTANCES.get(contract.similarity, cosine),
            PROMPTS=layouts.prompt_lines(contract),
            PREPENDED=fault or "services.xml has those of a query and of a document.",
        ),
    )
    said = [f"{SERVICES} has the component {name!r}: copy it and {FOLDER}/ into your application"]
    if fault:
        said.append(fault)
    return (*said, "Vespa itself was not run: it is no package of Python (docs/serving.md)")


def component(model: str) -> str:
    """Returns the name of the component: a name of XML."""
    name = slug(model).replace("+", "-")
    return name if name[:1].isalpha() else f"model-{name}"


def prepend(contract: Contract) -> tuple[str, str]:
    """Returns the element <prepend>, "" where there is none, and why the prompts cannot stand in
    it, "" where they can.

    Vespa puts a space between a prompt and the text, and gives queries the prompt of documents
    where they have none of their own.
    """
    query, document = contract.prompt_of("query"), contract.prompt_of("document")
    if not query and not document:
        return "", (
            "The model has no prompt for a query or a document." if contract.prompts else ""
        )
    yourself = "put the prompts before the texts yourself"
    if not query:
        return "", f"Vespa would give queries the prompt of documents: {yourself}."
    for text in filter(None, (query, document)):
        if not re.fullmatch(r"[^\s\x00-\x1f](?:[^\x00-\x1f\ufffe\uffff]*\S)? ", text):
            return (
                "",
                f"Vespa puts one space behind a prompt, and {text!r} wants others: {yourself}.",
            )
    lines = [
        f"        <{name}>{escape(text[:-1])}</{name}>\n"
        for name, text in (("query", query), ("document", document))
        if text
    ]
    return f"      <prepend>\n{''.join(lines)}      </prepend>\n", ""


def with_token_axis(graph: bytes, contract: Contract) -> bytes:
    """Returns the model with one output, HIDDEN, float32 [batch, 1, dim]: the embedding with an
    axis of one token."""
    made = []
    for number, value, whole in fields(memoryview(graph)):
        if number != _GRAPH or not isinstance(value, memoryview):
            made.append(bytes(whole))
            continue
        kept = [bytes(one) for place, _, one in fields(value) if place != _OUTPUT]
        inner = b"".join([*kept, *_unsqueezed(contract)])
        made.append(header(_GRAPH, len(inner)) + inner)
    return b"".join(made)


def _unsqueezed(contract: Contract) -> tuple[bytes, ...]:
    """Returns the fields of a graph that give its output the axis (onnx.proto: NodeProto,
    TensorProto, ValueInfoProto)."""
    axes = f"{HIDDEN}.axes".encode()
    output, hidden = contract.output.encode(), HIDDEN.encode()
    node = field(1, output) + field(1, axes) + field(2, hidden)
    node += field(3, f"{HIDDEN}.axis".encode()) + field(4, b"Unsqueeze")
    tensor = field(1, 1) + field(2, _INT64) + field(8, axes) + field(9, struct.pack("<q", 1))
    sizes = (field(2, b"batch"), field(1, 1), field(1, contract.dim))
    shape = b"".join(field(1, size) for size in sizes)
    kind = field(1, field(1, _FLOAT) + field(2, shape))
    return (
        field(_NODE, node),
        field(_INITIALIZER, tensor),
        field(_OUTPUT, field(1, hidden) + field(2, kind)),
    )

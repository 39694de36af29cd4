"""Layouts for servers: OpenVINO Model Server, and sentence-transformers' hub layout.

OpenVINO Model Server's text endpoint (`/v3/embeddings`) pools and normalises by itself. It looks
for an output of three axes, [batch, tokens, size], and refuses a model without one; our graph ends
in the embedding, [batch, size]. So the output gets an axis of one token, from which pooling by the
first token returns the very same numbers, and the server is told not to normalise. The axis is read
from a constant that the graph holds already, so the weights' file does not change, byte for byte.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, Contract
from goldfold.exporter.errors import ArtifactError, RewriteError, TargetError
from goldfold.exporter.system.files import link, read_bounded
from goldfold.exporter.system.names import slug
from goldfold.targets.openvino import markup, precise, tokenizer
from goldfold.targets.openvino.interop import HINTS
from goldfold.targets.openvino.model_file import GROUP, HIDDEN, XML, group

OVMS = "ovms"
SUBFOLDER = "openvino"
"""Folder in which sentence-transformers looks for the model of its backend of that name."""
_BIN = XML.replace(".xml", ".bin")
_SETTINGS = "config.json"
_OURS = ("load.py", "manifest.json", "verdict.json", "README.md", "card.json")
_CONFIG_LIMIT = 1 << 20
_GRAPH = """\
input_stream: "REQUEST_PAYLOAD:input"
output_stream: "RESPONSE_PAYLOAD:output"

node {{
  name: {name}
  calculator: "EmbeddingsCalculatorOV"
  input_side_packet: "EMBEDDINGS_NODE_RESOURCES:embeddings_servable"
  input_stream: "REQUEST_PAYLOAD:input"
  output_stream: "RESPONSE_PAYLOAD:output"
  node_options: {{
    [type.googleapis.com / mediapipe.EmbeddingsCalculatorOVOptions]: {{
      models_path: "./"
      pooling: CLS  # of the one token there is: the embedding as it stands
      normalize_embeddings: false  # the model does, if it does
      target_device: "CPU"
      plugin_config: {plugin}
    }}
  }}
}}
"""


def lay_out(
    folder: Path, contract: Contract, precision: str, layout: str, out: Path
) -> tuple[str, ...]:
    """Write `layout` of the artifact in `folder` into the empty folder `out`; big files are hard
    links where the file system has them.

    Returns notes for the user, one sentence each. Raises TargetError where the artifact lacks what
    the server needs, RewriteError if the server's model differs from the artifact's.
    """
    if contract.frame is not None:
        raise TargetError(
            f"{folder} puts texts into a chat template, which this layout's server does not; embed "
            "with goldfold, or with load.py"
        )
    return (_ovms if layout == OVMS else _library)(folder, contract, precision, out)


def _library(folder: Path, contract: Contract, precision: str, out: Path) -> tuple[str, ...]:
    """Write the layout of the hub: configurations in front, the model in `openvino/`."""
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name in _OURS or path.name.startswith(tokenizer.PACKAGE[:-1]):
            continue
        link(path, out / SUBFOLDER / path.name if path.name in (XML, _BIN) else out / path.name)
    return (f'SentenceTransformer("{out.name}", backend="openvino") opens it',)


def _ovms(folder: Path, contract: Contract, precision: str, out: Path) -> tuple[str, ...]:
    """Write `config.json`, a graph for texts, and a versioned model for token ids."""
    if not (folder / tokenizer.XML).is_file():
        raise TargetError(
            f"{folder} has no {tokenizer.XML}, which the server needs: its ids differed from the "
            f"goldens' (`goldfold inspect {folder}` says where); serve it by sentence-transformers"
        )
    name = slug(contract.model)  # a stranger's: a folder, and the model's name on the server
    name = f"model-{name}" if name.lower() == _SETTINGS else name
    tensors = f"{name}-tensors"
    markup.check(folder / XML)
    try:
        model = ov.Core().read_model(folder / XML)
    except RuntimeError as error:
        raise _refused(folder / XML, error) from None
    exact = {"INFERENCE_PRECISION_HINT": HINTS[precision], GROUP: group(model)}
    plugin = {**exact, "NUM_STREAMS": "1"}
    texts = out / name
    texts.mkdir(parents=True)
    try:
        _with_tokens(model, folder, contract, exact, texts)
    except RuntimeError as error:  # OpenVINO's own, of a graph that does not match the manifest
        raise _refused(folder / XML, error) from None
    for path in sorted(folder.glob("*token*")):
        link(path, texts / path.name)
    longest = {"max_position_embeddings": contract.max_length}  # the server's maximum length
    _write(texts / "config.json", {**_config(folder / "config.json"), **longest})
    graph = _GRAPH.format(name=_quoted(name), plugin=_quoted(json.dumps(plugin), "'"))
    (texts / "graph.pbtxt").write_text(graph, encoding="utf-8")
    for part in (XML, _BIN):
        link(folder / part, out / tensors / "1" / part)
    served = {"name": tensors, "base_path": tensors, "target_device": "CPU"}
    _write(
        out / _SETTINGS,
        {
            "model_config_list": [{"config": {**served, "plugin_config": plugin}}],
            "mediapipe_config_list": [{"name": name, "base_path": name}],
        },
    )
    said = [] if name == contract.model else [f"the name {contract.model!r} is served as {name!r}"]
    said += [f"texts: POST /v3/embeddings, model {name!r}", f"token ids: model {tensors!r}"]
    if contract.prompts:
        said.append("the server knows no prompts: put them before the texts (docs/serving.md)")
    return tuple(said)


def _config(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_bounded(file, _CONFIG_LIMIT))
    except OSError as error:
        raise ArtifactError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{file} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ArtifactError(f"{file} holds no settings")
    return found


def _refused(file: Path, error: RuntimeError) -> ArtifactError:
    reason = ([line for line in str(error).splitlines() if line.strip()] or [""])[-1]
    return ArtifactError(f"OpenVINO refuses {file}: {reason}")


def _with_tokens(
    model: ov.Model, folder: Path, contract: Contract, exact: dict[str, str], place: Path
) -> None:
    """Write the model in `folder` with its first output as [batch, 1, size] into `place`. OpenVINO
    computes both for the comparison with the settings `exact`."""
    embedding = model.output(contract.output).get_node().input_value(0)
    widened = ops.unsqueeze(embedding, _one(model))
    widened.set_friendly_name(f"{contract.output}.served")
    widened.output(0).get_tensor().set_names({HIDDEN})
    result = ops.result(widened.output(0))
    result.set_friendly_name(f"{contract.output}.served.result")
    inputs, title = model.get_parameters(), model.get_friendly_name()
    served = ov.Model([result], inputs, title)  # type: ignore[reportGeneralTypeIssues]
    ov.save_model(served, place / XML, compress_to_fp16=False)
    if names := markup.marked(folder / XML, precise.MARK):
        markup.mark(place / XML, names, precise.MARK)
    _compare(folder / XML, place / XML, contract, exact)
    if _alike(folder / _BIN, place / _BIN):
        (place / _BIN).unlink()
        link(folder / _BIN, place / _BIN)


def _one(model: ov.Model) -> ov.Node:
    """Returns the axis 1: a constant that the model holds, or a new one."""
    for op in model.get_ordered_ops():
        if op.get_type_name() == "Constant" and op.get_output_element_type(0) == ov.Type.i64:
            data = op.get_data()
            if data.size == 1 and data.ndim <= 1 and int(data.reshape(-1)[0]) == 1:
                return op
    return ops.constant(np.array([1], dtype=np.int64))


def _compare(ours: Path, served: Path, contract: Contract, exact: dict[str, str]) -> None:
    """Raise RewriteError unless both models give the same bits, for a short and a padded longer
    row."""
    rng = np.random.default_rng(0)
    length = min(16, contract.max_length)
    ids = rng.integers(0, contract.vocab_size, (2, length), dtype=np.int64)
    mask = np.ones_like(ids)
    mask[1, length // 2 :] = 0
    found = []
    for path, name in ((ours, contract.output), (served, HIDDEN)):
        compiled = ov.Core().compile_model(path, "CPU", exact)
        found.append(np.array(compiled({INPUT_IDS: ids, ATTENTION_MASK: mask})[name]))
        del compiled
    if found[0].tobytes() != found[1][:, 0].tobytes():  # NaN among them
        raise RewriteError(f"{served.name} for the server differs from the artifact's")


def _alike(one: Path, other: Path, chunk: int = 1 << 24) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while block := a.read(chunk):
            if block != b.read(chunk):
                return False
    return True


def _quoted(text: str, mark: str = '"') -> str:
    """Returns a string of protobuf's text format between two of `mark`; octal where it is not
    plain."""
    plain = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and chr(byte) not in f"{mark}\\" else f"\\{byte:03o}"
        for byte in text.encode("utf-8", "replace")
    )
    return f"{mark}{plain}{mark}"


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

"""A small model on disk, artifacts that hold its constants in each format, and their derivations.

The writers here are the tests' own: they know the formats from their definitions, as the readers
do, and share no code with them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import helper
from safetensors.numpy import save_file

NAME = "model.safetensors"
ROWS, COLUMNS, BLOCK = 24, 64, 16


def source(folder: Path) -> dict[str, np.ndarray]:
    """Writes a model of a table, a matrix, a gain and a position table."""
    random = np.random.default_rng(3)
    tensors = {
        "table": random.normal(size=(ROWS, COLUMNS)).astype(np.float32),
        "w": random.normal(size=(ROWS, COLUMNS)).astype(np.float32),
        "gain": (1 + random.normal(size=COLUMNS) / 8).astype(np.float32),
        "half": random.normal(size=(4, 6)).astype(np.float16),
        "brain": random.normal(size=(4, 6)).astype(ml_dtypes.bfloat16),
        "ids": np.arange(12, dtype=np.int64).reshape(3, 4),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / NAME)
    return tensors


def tensor(name: str) -> str:
    return f'tensor("{NAME}", "{name}")'


def raw(array: np.ndarray) -> bytes:
    """The bytes of an array as ONNX holds them: two numbers of 4 bits a byte, the lower first."""
    if array.dtype in (ml_dtypes.int4, ml_dtypes.uint4):
        codes = array.reshape(-1).astype(np.int8).view(np.uint8) & 15
        codes = np.append(codes, np.zeros(codes.size % 2, np.uint8))
        return (codes[::2] | codes[1::2] << 4).tobytes()
    return np.ascontiguousarray(array).tobytes()


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(raw(array)).hexdigest()


def line(name: str, array: np.ndarray, expression: str) -> str:
    shape = ",".join(map(str, array.shape))
    return f"{json.dumps(name)} {array.dtype} [{shape}] {digest(array)} = {expression}"


def text(*lines: str) -> str:
    return "\n".join(("goldfold.derivations/1", *lines))


def scales(w: np.ndarray, bits: int, block: int) -> np.ndarray:
    """float32 [channels, blocks]; float16 holds each."""
    parts = np.abs(w.reshape(len(w), -1, block or w.shape[1])).max(axis=2)
    return (parts / ((1 << (bits - 1)) - 1)).astype(np.float16).astype(np.float32)


def nearest(w: np.ndarray, scale: np.ndarray, bits: int, block: int) -> np.ndarray:
    high = (1 << (bits - 1)) - 1
    spread = np.repeat(scale, block or w.shape[1], axis=1)
    return np.clip(np.rint(w / spread), -high if bits == 8 else -high - 1, high).astype(np.int8)


def program(tensors: Mapping[str, np.ndarray], kind: str) -> tuple[dict[str, np.ndarray], str]:
    """Constants of a program in a precision, and their derivations: a matrix that is folded with a
    gain and transposed, a table, the gain itself."""
    w, table, gain = tensors["w"], tensors["table"], tensors["gain"]
    folded = f'cast(mul({tensor("w")}, {tensor("gain")}), "float32")'
    constants: dict[str, np.ndarray] = {"gain": gain}
    lines = [f"%1 = {folded}", line("gain", gain, tensor("gain"))]
    scaled = w * gain
    if kind in ("float32", "float16"):
        constants["m"] = np.ascontiguousarray(scaled.T.astype(kind))
        constants["t"] = table.astype(kind)
        lines.append(line("m", constants["m"], f'cast(transpose(%1, 1, 0), "{kind}")'))
        lines.append(line("t", constants["t"], f'cast({tensor("table")}, "{kind}")'))
        return constants, text(*lines)
    bits, block = (8, 0) if kind == "int8" else (4, BLOCK)
    for name, held, how in (("m", scaled, "%1"), ("t", table, tensor("table"))):
        scale = scales(held, bits, block)
        numbers = nearest(held, scale, bits, block)
        picked = f'chosen("float32", {scale.shape!r}, "{digest(scale)}")'
        whole = f"nearest({how}, {picked}, {bits}, {block})"
        if name == "m":  # searched, as by GPTQ, and transposed, as a graph holds it
            high = (1 << bits - 1) - 1
            numbers[:, ::7] = np.clip(numbers[:, ::7].astype(int) + 1, -high - 1, high)
            whole = f"transpose(steps({how}, {picked}, {bits}, {block}, 1.51, 0.9), 1, 0)"
            numbers, scale = numbers.T, scale.T
            picked = f"transpose({picked}, 1, 0)"
        stored = numbers.astype(ml_dtypes.int4) if bits == 4 else np.ascontiguousarray(numbers)
        constants[name], constants[f"{name}.scale"] = stored, np.ascontiguousarray(scale)
        lines.append(line(name, stored, f'cast({whole}, "{stored.dtype}")'))
        lines.append(line(f"{name}.scale", constants[f"{name}.scale"], picked))
    return constants, text(*lines)


def write(form: str, folder: Path, constants: Mapping[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    {"onnx": write_onnx, "openvino": write_openvino, "mlpackage": write_mlpackage}[form](
        folder, constants
    )
    return folder


def write_onnx(folder: Path, constants: Mapping[str, np.ndarray], inline: bool = False) -> None:
    tensors, data = [], b""
    for name, array in constants.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        one = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
        if inline:
            one.raw_data = raw(array)
        else:
            data += b"\0" * (-len(data) % 64)
            said = {"location": "model.onnx.data", "offset": len(data), "length": len(raw(array))}
            for key, value in said.items():
                one.external_data.add(key=key, value=str(value))
            one.data_location = onnx.TensorProto.EXTERNAL
            data += raw(array)
        tensors.append(one)
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])
    node = helper.make_node("Softmax", ["x"], ["y"], axis=-1)
    graph = helper.make_graph([node], "g", [value], [result], tensors)
    (folder / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    (folder / "model.onnx.data").write_bytes(data)


_OPENVINO = {
    "float32": "f32", "float16": "f16", "int8": "i8", "int4": "i4", "int64": "i64", "uint8": "u8",
}  # fmt: skip


def write_openvino(folder: Path, constants: Mapping[str, np.ndarray]) -> None:
    layers, data = "", b""
    for number, (name, array) in enumerate(constants.items()):
        shape = ", ".join(map(str, array.shape))
        layers += (
            f'<layer id="{number}" name="{name}" type="Const" version="opset1"><data '
            f'element_type="{_OPENVINO[str(array.dtype)]}" shape="{shape}" offset="{len(data)}" '
            f'size="{len(raw(array))}" /><output><port id="0" /></output></layer>\n'
        )
        data += raw(array)
    notes = (
        '<rt_info><tool value="1" /><runtime_options><G value="0" /></runtime_options></rt_info>'
    )
    net = f'<?xml version="1.0"?>\n<net name="n" version="11"><layers>\n{layers}</layers>'
    (folder / "openvino_model.xml").write_text(f"{net}<edges />{notes}</net>")
    (folder / "openvino_model.bin").write_bytes(data)


def varint(number: int) -> bytes:
    held = b""
    while number > 127:
        held, number = held + bytes([number & 127 | 128]), number >> 7
    return held + bytes([number])


def field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    held = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(held)) + held


_MIL = {"float32": (11, 2), "float16": (10, 1), "int8": (21, 4), "int4": (25, 8), "int32": (23, 14)}


def write_mlpackage(
    folder: Path, constants: Mapping[str, np.ndarray], inline: tuple[str, ...] = ()
) -> None:
    data = struct.pack("<II56x", len(constants), 2)
    operations = b""
    for name, array in constants.items():
        kind, blob = _MIL[str(array.dtype)]
        sizes = b"".join(field(3, field(1, field(1, size))) for size in array.shape)
        type_ = field(2, field(1, field(1, kind) + field(2, array.ndim) + sizes))
        if name in inline:
            numbers = field(1, field(1, field(1, array.astype("<f4").tobytes())))
            value = type_ + field(3, numbers)
        else:
            begin = len(data) + 64
            place = field(1, "@model_path/weights/weight.bin") + field(2, len(data))
            data += struct.pack("<IIQQ40x", 0xDEADBEEF, blob, len(raw(array)), begin) + raw(array)
            data += b"\0" * (-len(data) % 64)
            value = type_ + field(5, place)
        said = field(5, field(1, "val") + field(2, value))
        operations += field(3, field(1, "const") + field(3, field(1, name)) + said)
    function = field(2, "CoreML8") + field(3, field(1, "CoreML8") + field(2, operations))
    model = field(1, 9) + field(502, field(1, 1) + field(2, field(1, "main") + field(2, function)))
    root = folder / "model.mlpackage"
    inner = root / "Data" / "com.apple.CoreML"
    (inner / "weights").mkdir(parents=True, exist_ok=True)
    (inner / "model.mlmodel").write_bytes(model)
    (inner / "weights" / "weight.bin").write_bytes(data)
    entry = {"name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"}
    manifest = {"rootModelIdentifier": "R", "itemInfoEntries": {"R": entry}}
    (root / "Manifest.json").write_text(json.dumps(manifest))

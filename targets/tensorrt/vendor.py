"""NVIDIA's two compilers and the GPU: which are here. The driver alone is asked, since a TensorRT
runtime may crash where there is no GPU."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

RTX = "tensorrt_rtx"
ENTERPRISE = "tensorrt"
_DISTRIBUTIONS = {
    RTX: ("tensorrt_rtx_cu12", "tensorrt_rtx"),
    ENTERPRISE: ("tensorrt", "tensorrt_cu13", "tensorrt_cu12"),
}
TITLES = {RTX: "TensorRT for RTX", ENTERPRISE: "TensorRT"}

# enum CUdevice_attribute of cuda.h
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    name: str
    capability: str
    """The compute capability, as "sm86"."""


@cache
def gpu() -> Gpu | str:
    """Returns the first GPU, or why there is none."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"there is no NVIDIA GPU here (the driver's {library} is missing)"
    count, device = ctypes.c_int(), ctypes.c_int()
    if (code := driver.cuInit(0)) or (code := driver.cuDeviceGetCount(ctypes.byref(count))):
        return f"the NVIDIA driver finds no GPU (CUDA error {code})"
    if not count.value or driver.cuDeviceGet(ctypes.byref(device), 0):
        return "the NVIDIA driver finds no GPU"
    name = ctypes.create_string_buffer(128)
    driver.cuDeviceGetName(name, len(name), device)
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        found = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(found), attribute, device)
        numbers.append(found.value)
    return Gpu(name.value.decode(errors="replace"), f"sm{numbers[0]}{numbers[1]}")


def builder() -> str | None:
    """Returns the module to build with, or None.

    TensorRT for RTX builds without a GPU, for architectures that are named; TensorRT builds on the
    GPU that will run the engine, data-centre ones included, and comes first where there is one.
    """
    if installed(ENTERPRISE) and isinstance(gpu(), Gpu):
        return ENTERPRISE
    return RTX if installed(RTX) else None


def installed(module: str) -> bool:
    """Returns whether the module can be imported; a folder that happens to bear its name does not
    count."""
    found = find_spec(module)
    return found is not None and found.origin is not None


def capabilities() -> tuple[str, ...]:
    """Returns the architectures of TensorRT for RTX, from its own enumeration."""
    names = import_module(RTX).ComputeCapability.__members__
    return tuple(name.lower() for name in names if name.startswith("SM"))


def version_of(module: str) -> str:
    """Returns the version of a compiler's distribution, "unknown" if it was not installed as
    one."""
    for name in _DISTRIBUTIONS[module]:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"

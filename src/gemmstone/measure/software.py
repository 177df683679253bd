"""The software under a measurement: system, Python, libraries, compiler. Versions alone, no path of this machine."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable
from importlib import import_module, metadata
from typing import Any

import numpy as np

from gemmstone.core.errors import GemmstoneError
from gemmstone.measure import gpu, native
from gemmstone.measure.backends import backend

PACKAGES = ("gemmstone", "numpy", "numba", "torch", "triton", "cupy-cuda12x")


def software(backends: Iterable[str] = ()) -> dict[str, Any]:
    """Versions of what ran, None where it is not there. `backends`: names of measure.backends, which say their own."""
    command = native.compiler()
    return {
        "os": _system(),
        "kernel": platform.release()[:60],
        "architecture": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": (native.version(command)[:100] or None) if command else None,
        **{name.partition("-")[0]: _version(name) for name in PACKAGES},
        "blas": blas(),
        "cuda_driver": _cuda_driver(),
        "loaded": {"cuda": _of_torch("cuda"), "rocm": _of_torch("hip"), "cudnn": _cudnn()},
        "backends": {name: _backend(name) for name in backends},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)[:60]
    except metadata.PackageNotFoundError:
        return None


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())[:60]
    except OSError:
        return platform.system()


def blas() -> str | None:
    """The library that NumPy multiplies with, its version and, where it chooses by processor, the kernels it chose."""
    try:
        found = [one for one in import_module("threadpoolctl").threadpool_info() if one.get("user_api") == "blas"]
    except ImportError:
        found = []
    for one in found:  # NumPy's own first: it was loaded first
        parts = (one.get("internal_api"), one.get("version"), one.get("architecture"))
        return " ".join(str(part) for part in parts if part)[:80]
    return _built_with(np.show_config(mode="dicts"))


def _built_with(config: Any) -> str | None:
    """The BLAS that NumPy was built with; of all that stands there, name and version name no folder."""
    found = config.get("Build Dependencies", {}).get("blas", {}) if isinstance(config, dict) else {}
    named = " ".join(str(found.get(key, "")) for key in ("name", "version")).strip()
    return re.sub(r"\S*/\S*", "", named)[:80].strip() or None


def _cuda_driver() -> str | None:
    """The newest CUDA that the driver runs."""
    try:
        nvml = gpu.library()
    except GemmstoneError:
        return None
    number = gpu.ask(nvml.nvmlSystemGetCudaDriverVersion_v2)
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _of_torch(name: str) -> str | None:
    """A version out of a PyTorch that is loaded: loading it takes seconds."""
    found = getattr(getattr(sys.modules.get("torch"), "version", None), name, None)
    return str(found)[:60] if found else None


def _cudnn() -> str | None:
    torch = sys.modules.get("torch")
    found = gpu.ask(torch.backends.cudnn.version) if torch is not None else None
    return str(found) if found else None


def _backend(name: str) -> str | None:
    try:
        return backend(name).version()[:60]
    except GemmstoneError:
        return None

"""Triton on CUDA devices: products in tiles, softmax in two and three passes, norms, STREAM. Operands are PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call
from gemmstone.measure import calls as table
from gemmstone.measure.backends import Prepared, pytorch

INSTALL = "Triton is not installed: pip install 'gemmstone[torch]' on Linux with a CUDA device brings it"
NO_DEVICE = "Triton has no CUDA device here: it compiles for accelerators alone"
SCALAR = 3.0
BLOCK = 1024  # elements of a program of STREAM
SOFTMAX_BLOCK = 8192
MOST_WIDTH = 65536  # of a row that a program of the norm holds at once
TILE = {"M": 128, "N": 128, "K": 64, "GROUP": 8}
LEAST_ROWS = 16  # of a tile: the fewest that tl.dot multiplies


def missing() -> str:
    """Why Triton cannot run here, empty when it can."""
    if not find_spec("triton") or pytorch.missing():
        return INSTALL
    return "" if devices() else NO_DEVICE


def version() -> str:
    """Triton's version."""
    import triton

    return str(triton.__version__)


def devices() -> tuple[str, ...]:
    """The CUDA devices."""
    return tuple(device for device in pytorch.devices() if device != "cpu")


def supports(call: Call, device: str) -> bool:
    """Whether there is a kernel for the call and its format there."""
    if device == "cpu" or call.family not in KERNELS:
        return False
    if call.family.startswith("stream_"):
        return call.dtype in ("fp64", "fp32")
    if call.family.startswith("softmax_"):
        return call.dtype == "fp32"
    if call.family == "norm" and call.shape.get("width", 0) > MOST_WIDTH:
        return False
    return call.dtype in ("bf16", "fp16")


def prepare(call: Call, device: str, threads: int) -> Prepared:
    """Operands as for PyTorch; the kernel compiled by a first call, then captured into a CUDA graph of all sets."""
    table.operation(call)
    if not supports(call, device):
        raise BadRequest(f"no Triton kernel for {call.title} on {device}")
    settings = partial(pytorch.around, threads, device, call.dtype)
    return pytorch.prepared(lambda: kernel(call, device), device, settings)


def kernel(call: Call, device: str) -> Any:
    """PyTorch's operands and check of the call, with Triton's kernel in the place of its own."""
    return KERNELS[call.family](call, device)


def _made(call: Call, device: str) -> Any:
    from gemmstone.measure.pytorch import moves, products

    # the library's softmax has the operands and the check of every other
    family = "softmax" if call.family.startswith("softmax_") else call.family
    makers = {**products.KERNELS, **moves.KERNELS}
    return makers[family](Call(family=family, dtype=call.dtype, shape=call.shape), pytorch.place(device, call.dtype))


def _stream(call: Call, device: str) -> Any:
    from gemmstone.measure import triton_kernels

    name = call.family.removeprefix("stream_")
    function = getattr(triton_kernels, name)
    written = {"copy": 2, "scale": 1, "add": 2, "triad": 0}[name]

    def run(*arrays: Any) -> Any:
        size = arrays[0].numel()
        function[(-(-size // BLOCK),)](*arrays, size, SCALAR, BLOCK=BLOCK)
        return arrays[written]

    return _made(call, device)._replace(run=run)


def _norm(call: Call, device: str) -> Any:
    import torch

    from gemmstone.measure import triton_kernels

    def run(branch: Any, residual: Any, weight: Any) -> Any:
        rows, width = branch.shape
        summed, normed = torch.empty_like(branch), torch.empty_like(branch)
        block = 1 << (width - 1).bit_length()
        triton_kernels.add_norm[(rows,)](branch, residual, weight, summed, normed, width, 1e-5, BLOCK=block)
        return summed, normed

    return _made(call, device)._replace(run=run)


def _softmax(call: Call, device: str) -> Any:
    import torch

    from gemmstone.measure import triton_kernels

    function = getattr(triton_kernels, call.family.removeprefix("softmax_").replace("-", "_"))

    def run(values: Any) -> Any:
        rows, width = values.shape
        out = torch.empty_like(values)
        function[(rows,)](values, out, width, BLOCK=min(SOFTMAX_BLOCK, 1 << (width - 1).bit_length()))
        return out

    return _made(call, device)._replace(run=run)


def _gemm(call: Call, device: str) -> Any:
    import torch

    from gemmstone.measure import triton_kernels

    def run(x: Any, weight: Any) -> Any:
        (m, k), n = x.shape, weight.shape[0]
        tile = {**TILE, "M": max(min(TILE["M"], 1 << (m - 1).bit_length()), LEAST_ROWS)}
        out = torch.empty((m, n), dtype=x.dtype, device=x.device)
        tiles = -(-m // tile["M"]) * -(-n // tile["N"])
        triton_kernels.gemm[(tiles,)](x, weight, out, m, n, k, **tile)
        return out

    return _made(call, device)._replace(run=run)


KERNELS: dict[str, Callable[[Call, str], Any]] = {
    "gemm": _gemm,
    "norm": _norm,
    **{f"softmax_{name}": _softmax for name in ("two-pass", "three-pass-recompute", "three-pass-reload")},
    **{f"stream_{name}": _stream for name in table.STREAM},
}

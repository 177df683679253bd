"""Rungs on the first CUDA device: PyTorch in five formats, a kernel in Triton, CuPy's cuBLAS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.measure.ladder.libraries import imported
from gemmstone.measure.ladder.problem import Problem, Ready

WITHOUT = "no CUDA device"
FP8_CAPABILITY = (8, 9)  # Ada; torch._scaled_mm refuses older ones
FP8_MULTIPLE = 16  # of its rows and columns


def device_name() -> str:
    """What the driver calls the first CUDA device. Raises MissingBackend without one."""
    torch = imported()
    if not torch.cuda.is_available():
        raise MissingBackend(WITHOUT)
    return str(torch.cuda.get_device_name(0))


def pytorch(dtype: str, *, tf32: bool = False) -> Callable[[Problem], Ready]:
    """PyTorch's product on the device, in a format as PyTorch calls it; `tf32`: float32 through tensor cores."""
    return partial(_pytorch, dtype, tf32)


def _pytorch(dtype: str, tf32: bool, problem: Problem) -> Ready:
    device_name()
    torch = imported()
    kind = getattr(torch, dtype)
    a, b = (torch.from_numpy(array).to("cuda").to(kind) for array in (problem.a, problem.b))
    out = torch.empty((problem.n, problem.n), dtype=kind, device="cuda")

    @contextmanager
    def around() -> Iterator[None]:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return _ready(torch, lambda: torch.mm(a, b, out=out), out, (a, b), around=around)


def fp8() -> Callable[[Problem], Ready]:
    """PyTorch's product of float8_e4m3fn, scales of one, sums in full, result in bfloat16."""
    return _fp8


def _fp8(problem: Problem) -> Ready:
    device_name()
    torch = imported()
    if torch.cuda.get_device_capability(0) < FP8_CAPABILITY:
        raise BadRequest("the device has no fp8 tensor cores")
    if problem.n % FP8_MULTIPLE:
        raise BadRequest(f"fp8 products need N divisible by {FP8_MULTIPLE}")
    a = torch.from_numpy(problem.a).to("cuda").to(torch.float8_e4m3fn)
    # the second operand lies in columns
    b = torch.from_numpy(problem.b).to("cuda").t().contiguous().to(torch.float8_e4m3fn).t()
    one = torch.ones((), device="cuda")
    out = torch.empty((problem.n, problem.n), dtype=torch.bfloat16, device="cuda")

    def call() -> None:
        torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=out.dtype, use_fast_accum=False, out=out)

    return _ready(torch, call, out, (a, b))


def triton(dtype: str) -> Callable[[Problem], Ready]:
    """A blocked product written in Triton, in a format as PyTorch calls it."""
    return partial(_triton, dtype)


def _triton(dtype: str, problem: Problem) -> Ready:
    device_name()
    torch = imported()
    try:
        from gemmstone.measure.ladder import in_triton
    except ImportError:
        raise MissingBackend("Triton is not installed: pip install triton") from None
    kind = getattr(torch, dtype)
    a, b = (torch.from_numpy(array).to("cuda").to(kind) for array in (problem.a, problem.b))
    out = torch.empty((problem.n, problem.n), dtype=kind, device="cuda")
    return _ready(torch, lambda: in_triton.product(a, b, out), out, (a, b), version=in_triton.VERSION)


def _ready(torch: Any, call: Callable[[], object], out: Any, operands: tuple[Any, ...], **more: Any) -> Ready:
    return Ready(
        call=call,
        rows=lambda rows: out[torch.from_numpy(rows).to("cuda")].double().cpu().numpy(),
        clear=lambda: out.fill_(float("nan")),
        operands=tuple(str(array.dtype) for array in operands),
        synchronize=torch.cuda.synchronize,
        device="cuda:0",
        **{"version": f"torch {torch.__version__}", **more},
    )


def cupy(dtype: str) -> Callable[[Problem], Ready]:
    """CuPy's product, which is cuBLAS'."""
    return partial(_cupy, dtype)


def _cupy(dtype: str, problem: Problem) -> Ready:
    try:
        import cupy
    except ImportError:
        raise MissingBackend("CuPy is not installed: pip install cupy-cuda12x") from None
    try:
        if not cupy.cuda.runtime.getDeviceCount():
            raise MissingBackend(WITHOUT)
    except cupy.cuda.runtime.CUDARuntimeError:
        raise MissingBackend(WITHOUT) from None
    a, b = (cupy.asarray(array).astype(dtype) for array in (problem.a, problem.b))
    out = cupy.empty((problem.n, problem.n), dtype=dtype)
    return Ready(
        call=lambda: cupy.matmul(a, b, out=out),
        rows=lambda rows: cupy.asnumpy(out[cupy.asarray(rows)]),
        clear=lambda: out.fill(float("nan")),
        operands=(str(a.dtype), str(b.dtype)),
        synchronize=cupy.cuda.Device(0).synchronize,
        device="cuda:0",
        version=f"cupy {cupy.__version__}",
    )

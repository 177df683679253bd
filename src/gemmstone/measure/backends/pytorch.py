"""PyTorch on processors and CUDA devices: the operations that models call, with operands as they find them there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

from gemmstone.core.measurement import Call
from gemmstone.measure import calls as table
from gemmstone.measure import host
from gemmstone.measure.backends import Prepared

if TYPE_CHECKING:
    from gemmstone.measure.pytorch.operands import Kernel, Place

INSTALL = "PyTorch is not installed: pip install 'gemmstone[torch]'"
BROKEN = "PyTorch is installed but cannot be loaded"
FORMATS = {
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "float8_e4m3fn",
}
PRODUCTS = ("gemm", "batched_gemm")
FP64 = ("gemm", "memory_copy", "launch", *(f"stream_{name}" for name in table.STREAM))
FP8_CAPABILITY = (8, 9)  # the first with products of fp8: Ada (docs.nvidia.com/cuda, PTX ISA, mma)
FP8_MULTIPLE = 16  # of the columns and the depth of a product, which torch._scaled_mm asks for
ROOM_FRAC = 0.5  # of free memory, for operands: results and float64 copies need theirs


def missing() -> str:
    """Why PyTorch cannot run here, empty when it can. It is loaded to find out: one that is there may be broken."""
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        return INSTALL if error.name == "torch" else f"{BROKEN}: {error}"
    except (ImportError, OSError) as error:  # a library that it is linked with is missing, or of another version
        return f"{BROKEN}: {' '.join(str(error).split())[:200]}"
    return ""


def version() -> str:
    """PyTorch's version with what it was built for: "2.13.0+cpu"."""
    import torch

    return str(torch.__version__)


def devices() -> tuple[str, ...]:
    """The processor and every CUDA device."""
    import torch

    return "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))


def supports(call: Call, device: str) -> bool:
    """Whether there is a kernel for the call and its format there."""
    accelerator = device != "cpu"
    if call.family not in _kernels():
        return False
    if call.dtype == "tf32":
        return accelerator and call.family in PRODUCTS
    if call.dtype == "fp8":
        divides = all(call.shape.get(name, 0) % FP8_MULTIPLE == 0 for name in ("n", "k"))
        return accelerator and call.family == "gemm" and divides and _capability(device) >= FP8_CAPABILITY
    if call.dtype == "fp64":
        return call.family in FP64
    if call.family == "grouped_gemm" and call.shape.get("imbalance", 1.0) != 1.0:
        return False  # tokens are routed at random here
    if call.family == "elementwise":
        return _operands(call) in (1, 2, 3)
    return call.dtype in ("fp32", "bf16", "fp16")


def prepare(call: Call, device: str, threads: int) -> Prepared:
    """Operands made; on a CUDA device the calls on all sets are one CUDA graph, as engines replay them."""
    table.operation(call)
    settings = partial(around, threads, device, call.dtype)
    return prepared(lambda: _kernels()[call.family](call, place(device, call.dtype)), device, settings)


def prepared(
    make: Callable[[], Kernel], device: str, settings: Callable[[], AbstractContextManager[object]]
) -> Prepared:
    """A kernel ready to run under some settings."""
    import torch

    with settings():
        kernel = make()
        check = partial(_checked, kernel, settings)
        if device == "cpu":
            return Prepared(_rotating(kernel), check=check, around=settings)
        synchronize = partial(torch.cuda.synchronize, device)
        replay = captured(kernel, device) if kernel.capturable else None
        if replay is None:
            return Prepared(_rotating(kernel), synchronize, check, around=settings)
        return Prepared(replay, synchronize, check, calls=len(kernel.sets), around=settings)


@contextmanager
def around(threads: int, device: str, dtype: str = "") -> Iterator[None]:
    """PyTorch's settings while something is measured; they are the process's own again afterwards."""
    import torch

    before, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if threads:
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        with torch.inference_mode():
            if device == "cpu":
                yield
            else:
                with torch.cuda.device(device):
                    yield
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision(precision)


def captured(kernel: Kernel, device: str) -> Callable[[], object] | None:
    """Replays the calls on all sets of operands; None where they cannot be captured because the host takes part in them."""
    import torch

    cuda: Any = torch.cuda  # in part untyped
    graph, side = cuda.CUDAGraph(), cuda.Stream(device)
    side.wait_stream(cuda.current_stream(device))
    try:
        with cuda.stream(side):  # libraries allocate their workspaces before the capture
            for operands in kernel.sets[:3]:
                kernel.run(*operands)
        cuda.current_stream(device).wait_stream(side)
        with cuda.graph(graph):
            for operands in kernel.sets:
                kernel.run(*operands)
    except RuntimeError:
        cuda.synchronize(device)
        return None
    replay: Callable[[], object] = graph.replay
    return replay


def _rotating(kernel: Kernel) -> Callable[[], object]:
    run = kernel.run
    if len(kernel.sets) == 1:
        return partial(run, *kernel.sets[0])
    following = cycle(kernel.sets).__next__
    return lambda: run(*following())


def _checked(kernel: Kernel, settings: Callable[[], AbstractContextManager[object]]) -> float:
    with settings():
        return kernel.error(kernel.run(*kernel.sets[0]), *kernel.sets[0])


def _capability(device: str) -> tuple[int, int]:
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return major, minor


def _operands(call: Call) -> float:
    from gemmstone.measure.pytorch.moves import operands

    return operands(call)


def place(device: str, dtype: str) -> Place:
    """Where operands of a format lie on a device, and how much room they have."""
    import torch

    from gemmstone.measure.pytorch.operands import Place

    kind = getattr(torch, FORMATS[dtype])
    if device == "cpu":
        return Place(device, kind, host.last_level_bytes(), ROOM_FRAC * host.available_bytes())
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.get_device_properties(device).L2_cache_size
    return Place(device, kind, cached, ROOM_FRAC * free)


def _kernels() -> dict[str, Callable[[Call, Place], Kernel]]:
    """Kinds of calls and what makes their kernels."""
    from gemmstone.measure.pytorch import layers, moves, products

    return {**products.KERNELS, **moves.KERNELS, **layers.KERNELS}

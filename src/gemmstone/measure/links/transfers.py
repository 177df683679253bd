"""Copies in memory, transfers between a CUDA device and its host, and what starting a kernel costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gemmstone.core.errors import GemmstoneError, MissingBackend
from gemmstone.core.measurement import Call
from gemmstone.measure import arrays, host
from gemmstone.measure.backends import BACKENDS, Prepared, backend
from gemmstone.measure.links.job import Job, prepared

COPIED_BYTES = (1 << 20, 16 << 20, 256 << 20)
MOVED_BYTES = (4 << 10, 256 << 10, 16 << 20, 256 << 20)
REPLAYED = 100  # kernels of a graph


def copies(threads: int) -> tuple[list[Job], list[str]]:
    """Copies by each backend that has them, and why others have not."""
    found: list[Job] = []
    missing: list[str] = []
    room = arrays.ROOM_FRAC * host.available_bytes() / 2
    for name in BACKENDS:
        try:
            module = backend(name)
        except (GemmstoneError, ImportError) as error:
            if name in ("native", "pytorch"):
                missing.append(f"copies by {name}: {error}")
            continue
        calls = [_call("memory_copy", message_bytes=size) for size in COPIED_BYTES if size <= room]
        for call in (call for call in calls if module.supports(call, "cpu")):
            make = partial(module.prepare, call, "cpu", threads)
            found.append(prepared(call, make, backend=name, version=module.version(), threads=threads, weight=0.5))
    return found, missing


def launches() -> tuple[list[Job], list[str]]:
    """What calling PyTorch costs on a processor, and starting and replaying a kernel on a CUDA device."""
    try:
        module = backend("pytorch")
    except MissingBackend as error:
        return [], [f"launches: {error}"]
    found = []
    for device in module.devices():
        call = _call("launch", size=1.0)
        make = partial(module.prepare, call, device, 1)
        found.append(prepared(call, make, backend="pytorch", version=module.version(), device=device))
        if device != "cpu":
            graph = _call("launch", size=1.0, graph=1.0)
            found.append(
                prepared(graph, partial(_replay, device), backend="pytorch", version=module.version(), device=device)
            )
    return found, []


def _replay(device: str) -> Prepared:
    """A CUDA graph of kernels that do next to nothing, one after the other."""
    import torch

    cuda: Any = torch.cuda
    x = torch.rand(1, device=device)
    graph, side = cuda.CUDAGraph(), cuda.Stream(device)
    side.wait_stream(cuda.current_stream(device))
    with cuda.stream(side):
        x.mul_(1.0)  # what allocates does so before the capture
    cuda.current_stream(device).wait_stream(side)
    with cuda.device(device), cuda.graph(graph):
        for _ in range(REPLAYED):
            x.mul_(1.0)
    return Prepared(graph.replay, partial(cuda.synchronize, device), calls=REPLAYED)


def transfers() -> tuple[list[Job], list[str]]:
    """Both ways between the host and each CUDA device, from pinned and from pageable memory."""
    try:
        backend("pytorch")
    except MissingBackend as error:
        return [], [f"host and device: {error}"]
    import torch

    if not torch.cuda.is_available():
        return [], ["host and device: no CUDA device here"]
    found = []
    for index in range(torch.cuda.device_count()):
        device = f"cuda:{index}"
        for family in ("host_to_device", "device_to_host"):
            for pinned in (1.0, 0.0):
                for size in MOVED_BYTES:
                    call = _call(family, message_bytes=size, pinned=pinned)
                    make = partial(_transfer, torch, call, device)
                    found.append(
                        prepared(
                            call, make, backend="pytorch", version=str(torch.__version__), device=device, weight=0.25
                        )
                    )
    return found, []


def _transfer(torch: Any, call: Call, device: str) -> Prepared:
    elements = int(call.shape["message_bytes"]) // 4
    here = torch.rand(elements)
    if call.shape["pinned"]:
        here = here.pin_memory()
    there = torch.rand(elements, device=device)
    to, source = (there, here) if call.family == "host_to_device" else (here, there)
    synchronize = partial(torch.cuda.synchronize, device)

    def check() -> float:
        to.copy_(source)
        synchronize()
        return float((to.cpu() - source.cpu()).abs().max())

    move: Callable[[], object] = partial(to.copy_, source, non_blocking=bool(call.shape["pinned"]))
    return Prepared(move, synchronize, check)


def _call(family: str, **shape: float) -> Call:
    return Call(family=family, dtype="fp32", shape={name: float(value) for name, value in shape.items()})

"""Operands of kernels that PyTorch runs: random numbers, in as many sets as the caches need to be left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch

from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call
from gemmstone.measure import calls as table
from gemmstone.measure import host

Tensor = torch.Tensor
TILE = (
    1_048_573  # random numbers that fill operands, again and again: a prime, so that no two rows of a matrix are equal
)
CHECKED_ROWS, CHECKED_COLUMNS = 16, 256


class Place(NamedTuple):
    """Where operands lie and how much room they have."""

    device: str
    dtype: Any
    cache_bytes: float
    room_bytes: float


class Kernel(NamedTuple):
    """A call as PyTorch makes it: sets of operands that rotate, what runs on one, and its error against float64."""

    sets: Sequence[tuple[Any, ...]]
    run: Callable[..., Any]
    error: Callable[..., float]
    capturable: bool = True  # into a CUDA graph: the host takes no part in it


@cache
def _tile() -> Tensor:
    import torch

    return torch.randn(TILE, generator=torch.Generator().manual_seed(0))


def random(place: Place, *shape: int, scale: float = 1.0) -> Tensor:
    """Normal random numbers, quickly: a tile of them, repeated."""
    import torch

    made = torch.empty(shape, dtype=place.dtype, device=place.device)
    tile = (_tile() * scale).to(place.dtype).to(place.device)
    flat = made.view(-1)
    for start in range(0, flat.numel(), TILE):
        part = flat[start : start + TILE]
        part.copy_(tile[: part.numel()])
    return made


def rotated(call: Call, place: Place, elements: float, make: Callable[[], tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """As many sets of operands of so many elements as the caches need to be left."""
    one = elements * place.dtype.itemsize
    count = host.sets(one, cache_bytes=place.cache_bytes, room_bytes=place.room_bytes, what=call.title)
    return [make() for _ in range(count)]


def check_fits(call: Call, place: Place, elements: float) -> None:
    host.sets(
        elements * place.dtype.itemsize, cache_bytes=place.cache_bytes, room_bytes=place.room_bytes, what=call.title
    )


def numbers(call: Call, *names: str) -> tuple[int, ...]:
    shape = {**table.CALLS[call.family].defaults, **call.shape}
    for name in names:
        if shape[name] != int(shape[name]):
            raise BadRequest(f"{call.title}: {name} is a whole number here")
    return tuple(int(shape[name]) for name in names)


def some(size: int, most: int) -> list[int]:
    """Indices spread over `size`, the last among them: what is checked of a result."""
    return sorted({round(i * (size - 1) / max(min(size, most) - 1, 1)) for i in range(min(size, most))})


def off(got: Tensor, want: Tensor) -> float:
    """Largest error over the largest value, `want` being the float64 result."""
    largest = float(want.abs().max())
    return float((got.detach().cpu().double() - want).abs().max()) / largest if largest else math.inf


def wide(tensor: Tensor) -> Tensor:
    return tensor.cpu().double()

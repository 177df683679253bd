"""What only moves bytes, as PyTorch runs it: norms, rotary embedding, gating, softmax, STREAM, copies, launches."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call
from gemmstone.measure import calls as table
from gemmstone.measure.pytorch import ops
from gemmstone.measure.pytorch.operands import (
    CHECKED_ROWS,
    Kernel,
    Place,
    Tensor,
    check_fits,
    numbers,
    off,
    random,
    rotated,
    some,
    wide,
)

TABLE_ROWS = 32_000  # rows of an embedding table, as Llama 2's; larger ones only take memory
HEAD_DIM = 128


def _norm(call: Call, place: Place) -> Kernel:
    tokens, width = numbers(call, "tokens", "width")
    check_fits(call, place, 8 * tokens * width)  # its fp32 intermediates are twice as wide
    rows = some(tokens, CHECKED_ROWS)

    def error(got: tuple[Tensor, Tensor], branch: Tensor, residual: Tensor, weight: Tensor) -> float:
        # the sum is rounded to the format before it is normed, by definition of the op
        summed = wide((branch + residual)[rows])
        want = summed / torch.sqrt(summed.pow(2).mean(-1, keepdim=True) + 1e-5) * wide(weight)
        return off(got[1][rows], want)

    operands = (random(place, tokens, width), random(place, tokens, width).flip(0), random(place, width))
    return Kernel([operands], ops.add_norm, error)


def _rotary(call: Call, place: Place) -> Kernel:
    tokens, width = numbers(call, "tokens", "width")
    dim = next((dim for dim in (HEAD_DIM, 64, 2) if width % dim == 0), 0)
    if not dim:
        raise BadRequest(f"{call.title}: an even width is rotated")
    check_fits(call, place, 4 * tokens * width)
    heads = width // dim
    shared = heads // 5  # keys: four query heads to one, as in Llama 3
    angles = torch.outer(torch.arange(tokens), 1e4 ** (-torch.arange(0, dim, 2) / dim)).repeat(1, 2)
    cos, sin = (function(angles).to(place.dtype).to(place.device) for function in (torch.cos, torch.sin))
    queries = random(place, 1, tokens, heads - shared, dim).transpose(1, 2)
    keys = random(place, 1, tokens, shared, dim).transpose(1, 2)
    rows = some(tokens, CHECKED_ROWS)

    def rotate(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        return ops.rotate(queries, cos, sin), ops.rotate(keys, cos, sin) if shared else None

    def error(got: tuple[Tensor, Tensor | None], queries: Tensor, keys: Tensor) -> float:
        head = wide(queries[0, -1, rows])
        turned = torch.complex(head[:, : dim // 2], head[:, dim // 2 :]) * torch.complex(
            wide(cos[rows, : dim // 2]), wide(sin[rows, : dim // 2])
        )
        return off(got[0][0, -1, rows], torch.cat((turned.real, turned.imag), -1))

    return Kernel([(queries, keys)], rotate, error)


def _activation(call: Call, place: Place) -> Kernel:
    tokens, width, gated = numbers(call, "tokens", "width", "gated")
    check_fits(call, place, 4 * tokens * width)
    rows = some(tokens, CHECKED_ROWS)
    gates = random(place, tokens, width)

    def error(got: Tensor, gates: Tensor, values: Tensor | None = None) -> float:
        x = wide(gates[rows])
        if values is None:
            return off(got[rows], x * (1.0 + torch.erf(x / math.sqrt(2.0))) / 2.0)
        return off(got[rows], x / (1.0 + torch.exp(-x)) * wide(values[rows]))

    if gated:
        return Kernel([(gates, random(place, tokens, width).flip(0))], ops.gate, error)
    return Kernel([(gates,)], F.gelu, error)


def _embedding(call: Call, place: Place) -> Kernel:
    tokens, width = numbers(call, "tokens", "width")
    check_fits(call, place, (TABLE_ROWS + tokens) * width)
    weight = random(place, TABLE_ROWS, width)
    generator = torch.Generator().manual_seed(tokens)
    # other rows every time: the table itself is larger than the caches, or what it is in use
    sets = rotated(
        call,
        place,
        tokens * width,
        lambda: (torch.randint(TABLE_ROWS, (tokens,), generator=generator).to(place.device), weight),
    )

    def error(got: Tensor, ids: Tensor, weight: Tensor) -> float:
        return off(got, wide(weight)[ids.cpu()])

    return Kernel(sets, F.embedding, error)


def _softmax(names: tuple[str, str], call: Call, place: Place) -> Kernel:
    rows, width = numbers(call, *names)
    check_fits(call, place, 3 * rows * width)
    checked = some(rows, CHECKED_ROWS)

    def sample(logits: Tensor) -> tuple[Tensor, Tensor]:
        shares = torch.softmax(logits, dim=-1)
        return shares, torch.argmax(shares, dim=-1)

    def error(got: tuple[Tensor, Tensor], logits: Tensor) -> float:
        return off(got[0][checked], wide(logits[checked]).softmax(-1))

    logits = random(place, rows, width)
    if call.family == "sampling":
        return Kernel([(logits,)], sample, error)
    return Kernel(
        [(logits,)],
        partial(torch.softmax, dim=-1),
        lambda got, logits: off(got[checked], wide(logits[checked]).softmax(-1)),
    )


def operands(call: Call) -> float:
    """How many values a kernel reads for every one that it writes."""
    return call.shape.get("read_elements", 0.0) / max(call.shape.get("write_elements", 0.0), 1.0)


def _elementwise(call: Call, place: Place) -> Kernel:
    (elements,) = numbers(call, "write_elements")
    reads = int(operands(call))
    check_fits(call, place, (reads + 1) * elements)
    runs: dict[int, Callable[..., Any]] = {1: partial(torch.mul, other=0.5), 2: torch.add, 3: torch.addcmul}
    wants: dict[int, Callable[..., Any]] = {1: lambda x: 0.5 * x, 2: lambda x, y: x + y, 3: lambda x, y, z: x + y * z}
    inputs = tuple(random(place, elements) for _ in range(reads))

    def error(got: Tensor, *inputs: Tensor) -> float:
        return off(got, wants[reads](*(wide(one) for one in inputs)))

    return Kernel([inputs], runs[reads], error)


def _stream(call: Call, place: Place) -> Kernel:
    (elements,) = numbers(call, "elements")
    name = call.family.removeprefix("stream_")
    arrays = 2 if name in ("copy", "scale") else 3
    scalar = 3.0
    runs: dict[str, Callable[..., Any]] = {
        "copy": lambda a, b, c: c.copy_(a),
        "scale": lambda a, b, c: torch.mul(c, scalar, out=b),
        "add": lambda a, b, c: torch.add(a, b, out=c),
        "triad": lambda a, b, c: torch.add(b, c, alpha=scalar, out=a),
    }
    wants: dict[str, Callable[..., Any]] = {
        "copy": lambda a, b, c: a,
        "scale": lambda a, b, c: scalar * c,
        "add": lambda a, b, c: a + b,
        "triad": lambda a, b, c: b + scalar * c,
    }

    def drawn() -> tuple[Any, ...]:
        return tuple(random(place, elements) for _ in range(3))

    sets = rotated(call, place, arrays * elements, drawn)

    def error(got: Tensor, a: Tensor, b: Tensor, c: Tensor) -> float:
        at = some(elements, 1000)
        return off(got[at], wants[name](wide(a[at]), wide(b[at]), wide(c[at])))

    return Kernel(sets, runs[name], error)


def _memory_copy(call: Call, place: Place) -> Kernel:
    (size,) = numbers(call, "message_bytes")
    elements = max(size // place.dtype.itemsize, 1)
    sets = rotated(call, place, 2 * elements, lambda: (random(place, elements), random(place, elements)))
    return Kernel(sets, lambda a, b: b.copy_(a), lambda got, a, b: off(got, wide(a)))


def _launch(call: Call, place: Place) -> Kernel:
    (size,) = numbers(call, "size")
    x = random(place, size)
    # a kernel of next to no work: on a CUDA device what starting one costs, on a processor what calling PyTorch costs
    return Kernel([(x,)], partial(torch.add, other=1.0), lambda got, x: off(got, 1.0 + wide(x)), capturable=False)


KERNELS: dict[str, Callable[[Call, Place], Kernel]] = {
    "norm": _norm,
    "rotary": _rotary,
    "activation": _activation,
    "embedding": _embedding,
    "sampling": partial(_softmax, ("sequences", "vocab")),
    "softmax": partial(_softmax, ("rows", "width")),
    "elementwise": _elementwise,
    **{f"stream_{name}": _stream for name in table.STREAM},
    "memory_copy": _memory_copy,
    "launch": _launch,
}

"""Which calls are measured: those of a grid that fits this machine or that some order names first, and who measures them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from gemmstone.core import dtypes
from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.core.lookup import unknown
from gemmstone.core.measurement import Call
from gemmstone.measure import host
from gemmstone.measure.backends import BACKENDS, Backend, backend, pytorch
from gemmstone.measure.calls import CALLS, SOFTMAX, STREAM, operation
from gemmstone.measure.peak import usable_cores

# An order of calls of a family in a format, most telling first: (family, dtype) to calls; empty: the grid's own.
Order = Callable[[str, str], Sequence[Call]]

# [n, k] of matrices of Llama-shaped models of 50 million to 8 billion parameters, small and large taking turns
MATRICES = (
    *((2048, 2048), (512, 512), (4096, 4096), (2048, 512), (8192, 2048), (1024, 1024), (2048, 8192), (512, 2048)),
    *((4096, 1024), (14336, 4096), (1536, 512), (32000, 512), (1024, 4096), (4096, 14336), (32000, 2048), (6144, 4096)),
)
ROWS = (1, 128, 16, 1024, 4, 512, 64, 2048, 8, 256, 32)
HEADS = ((32, 8, 64), (8, 8, 64), (32, 8, 128), (16, 4, 64), (12, 12, 64))  # heads, kv_heads, head_dim
PROMPTS = ((1, 512), (1, 64), (1, 2048), (4, 256), (1, 128), (1, 1024), (16, 128))  # batch, tokens
CONTEXTS = ((1, 1024), (16, 256), (4, 2048), (1, 128), (16, 2048), (4, 512), (1, 4096))  # batch, context
EXPERTS = ((8, 2, 1024, 2048), (64, 8, 1024, 512))  # experts, experts_per_token, hidden, intermediate
WIDTHS = (  # tokens, width
    *((64, 2048), (1, 1024), (512, 1024), (16, 512), (2048, 1024), (1, 2816), (1024, 2816), (4, 2048), (256, 512)),
    *((2048, 2816), (128, 4096), (2048, 512), (64, 768), (2048, 4096)),
)
LAYERS = (  # hidden, intermediate, heads, KV heads of decoder layers, and batch, tokens, past of what goes through them
    *(
        (64, 176, 1, 1, 1, 1, 63),
        (512, 1408, 8, 4, 1, 1, 255),
        (1024, 2816, 16, 4, 1, 1, 255),
        (512, 1408, 8, 4, 16, 1, 255),
    ),
    *(
        (512, 1408, 8, 4, 1, 64, 0),
        (64, 176, 1, 1, 16, 1, 63),
        (1024, 2816, 16, 8, 1, 256, 0),
        (512, 1408, 8, 4, 1, 1024, 0),
    ),
)
VOCABULARIES = ((1, 32000), (16, 128256), (4, 32000))
CACHED_SOFTMAX = {"rows": 256.0, "width": 4096.0}
LEAST_SOFTMAX_WIDTH, MOST_SOFTMAX_WIDTH = 1 << 22, 1 << 26
COPIED_BYTES = (256 << 20, 1 << 20)
STREAM_BYTES = 3 * 8  # STREAM's arrays are four times the caches at least (https://www.cs.virginia.edu/stream/ref.html)
MOST_STREAM_ELEMENTS = 1 << 27
# A call that takes longer than this is left out where it is ours to choose: a sample of several would take the budget.
# Rates that nobody has measured yet, to order by: a processor core and an accelerator of recent years, within a factor of ten.
MOST_CALL_S = 0.15
GUESSED_FLOP_PER_S = {"cpu": 3e10, "cuda": 5e13}
GUESSED_BYTES_PER_S = {"cpu": 8e9, "cuda": 5e11}
FORMATS = {"cpu": ("fp32", "bf16"), "cuda": ("bf16", "fp16", "fp8", "fp32", "tf32")}
PRODUCTS = ("gemm", "batched_gemm", "grouped_gemm", "attention_prefill", "attention_decode")
ONE_CORE = ("memory_latency", "memory_bandwidth")
SEVERAL = (*(f"stream_{name}" for name in STREAM), *(f"softmax_{name}" for name in SOFTMAX))  # by all backends


@dataclass(frozen=True, kw_only=True)
class Item:
    """One call to be measured, and by whom."""

    call: Call
    backend: str
    device: str = "cpu"
    threads: int = 1

    @property
    def key(self) -> tuple[str, str, str, int]:
        """That of its measurements."""
        return self.call.key, self.backend, self.device, self.threads

    def document(self) -> dict[str, Any]:
        """As it stands in a draft, so that it can be gone on with."""
        call = self.call
        shape = {name: float(value) for name, value in call.shape.items()}
        named = {"backend": self.backend, "device": self.device, "threads": self.threads}
        return {"family": call.family, "dtype": call.dtype, "shape": shape, **named}


def item(document: Mapping[str, Any]) -> Item:
    """The Item of Item.document. Raises BadRequest for what is none."""
    try:
        call = Call(family=document["family"], dtype=document["dtype"], shape=dict(document["shape"]))
        found = Item(
            call=call,
            backend=str(document["backend"]),
            device=str(document["device"]),
            threads=int(document["threads"]),
        )
    except (KeyError, TypeError, ValueError):
        raise BadRequest("this draft does not say what was to be measured: begin anew") from None
    operation(found.call)
    if found.backend not in BACKENDS:
        raise unknown("backend", found.backend, BACKENDS)
    return found


def guessed_s(call: Call, device: str, threads: int) -> float:
    """Seconds that a call may take, before anything was measured: within a factor of ten."""
    kind = "cpu" if device == "cpu" else "cuda"
    op, cores = operation(call), threads if kind == "cpu" else 1
    compute_s = float(op.flop) / (GUESSED_FLOP_PER_S[kind] * cores)
    return compute_s + float(op.bytes) / GUESSED_BYTES_PER_S[kind]


def items(
    calls: Iterable[Call],
    *,
    device: str,
    threads: int = 0,
    backends: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> list[Item]:
    """Who measures which call: the first backend that has it, for STREAM and softmax all that do.

    Raises MissingBackend where a backend that was named cannot run here, or none can.
    """
    here = {name: backend(name) for name in backends} if backends else available(device, say)
    devices = dict.fromkeys(found for module in here.values() for found in module.devices())
    here = {name: module for name, module in here.items() if device in module.devices()}
    if not here:
        raise MissingBackend(
            f"nothing runs on {device[:40]!r} here, only on {', '.join(devices) or 'nothing'}{_hint()}"
        )
    found: dict[tuple[str, str, str, int], Item] = {}
    for call in calls:
        able = [name for name, module in here.items() if module.supports(call, device)]
        for name in able if call.family in SEVERAL or backends else able[:1]:
            cores = 1 if call.family in ONE_CORE else threads or usable_cores()
            made = Item(call=call, backend=name, device=device, threads=cores)
            found.setdefault(made.key, made)
    return list(found.values())


def _hint() -> str:
    why = pytorch.missing()
    return f"; {why}" if why else ""


def available(device: str, say: Callable[[str], None] = print) -> dict[str, Backend]:
    """The backends that can run here; `say` hears why PyTorch cannot, whose kernels predictions are made of."""
    found: dict[str, Backend] = {}
    for name in BACKENDS:
        try:
            found[name] = backend(name)
        except MissingBackend as error:
            if name == "pytorch":
                say(str(error))
        except ImportError:
            continue  # a backend whose own file is not there
    return found


def grid(
    *,
    device: str = "cpu",
    threads: int = 0,
    families: Sequence[str] = (),
    formats: Sequence[str] = (),
    order: Order | None = None,
) -> list[Call]:
    """Calls of all families, or of some, that this machine can make in a fraction of a second, most telling first in each."""
    for name in families:
        if name not in CALLS:
            raise unknown("kind of call", name, CALLS)
    named = tuple(dtypes.resolve(name) for name in formats) or FORMATS["cpu" if device == "cpu" else "cuda"]
    cores = threads or usable_cores()
    found: dict[str, Call] = {}
    for family, shapes in SHAPES.items():
        if families and family not in families:
            continue
        lists = []
        for dtype in named:
            first = list(order(family, dtype)) if order and family in PRODUCTS else []
            lists.append(first or [Call(family=family, dtype=_dtype(family, dtype), shape=shape) for shape in shapes()])
        # formats take turns, so that each has had its share at any moment
        for call in (call for turn in zip_longest(*lists) for call in turn if call is not None):
            if guessed_s(call, device, cores) <= MOST_CALL_S and _fits(call, device):
                found.setdefault(call.key, call)
    if families and not found:
        raise BadRequest(f"nothing of {', '.join(families)} is measured here: see gemmstone measure --help")
    return list(found.values())


def _dtype(family: str, dtype: str) -> str:
    """STREAM counts in fp64, and sampling is of fp32 logits, whatever a model computes in; what only moves bytes knows no fp8."""
    if family in STREAMS:
        return "fp64"
    if family == "sampling" or family.startswith("softmax"):
        return "fp32"
    return "bf16" if dtype == "fp8" and family != "gemm" else "fp32" if dtype == "tf32" and family != "gemm" else dtype


def _fits(call: Call, device: str) -> bool:
    return device != "cpu" or float(operation(call).bytes) < 0.25 * host.available_bytes()


def _gemms() -> Iterator[dict[str, float]]:
    for number, m in enumerate(ROWS):
        # every number of rows begins elsewhere in the matrices, so that few calls already tell of many of both
        for at in range(len(MATRICES)):
            n, k = MATRICES[(at + 5 * number) % len(MATRICES)]
            if at % 4 == number % 4 or number < 2:
                yield {"m": m, "n": n, "k": k}


def _prefills() -> Iterator[dict[str, float]]:
    for at, (batch, tokens) in enumerate(PROMPTS):
        for heads, kv_heads, dim in (HEADS[at % len(HEADS)], HEADS[(at + 2) % len(HEADS)]):
            yield {"batch": batch, "tokens": tokens, "heads": heads, "kv_heads": kv_heads, "head_dim": dim}


def _decodes() -> Iterator[dict[str, float]]:
    for at, (batch, context) in enumerate(CONTEXTS):
        for heads, kv_heads, dim in (HEADS[at % len(HEADS)], HEADS[(at + 2) % len(HEADS)]):
            yield {"batch": batch, "context": context, "heads": heads, "kv_heads": kv_heads, "head_dim": dim}


def _experts() -> Iterator[dict[str, float]]:
    for tokens in (1, 64, 8, 256):
        for experts, each, hidden, intermediate in EXPERTS:
            shape = {"experts": experts, "experts_per_token": each, "hidden": hidden, "intermediate": intermediate}
            yield {"tokens": tokens, **shape}


def _wide() -> Iterator[dict[str, float]]:
    return ({"tokens": tokens, "width": width} for tokens, width in WIDTHS)


def _layers() -> Iterator[dict[str, float]]:
    names = ("hidden", "intermediate", "heads", "kv_heads", "batch", "tokens", "past")
    return ({**dict(zip(names, map(float, row), strict=True)), "head_dim": 64.0} for row in LAYERS)


def _stream() -> Iterator[dict[str, float]]:
    yield {"elements": float(min(max(4 * host.last_level_bytes() // 8, 1 << 22), MOST_STREAM_ELEMENTS))}


def _softmax() -> Iterator[dict[str, float]]:
    """One row of twice the last-level cache, of which a second pass finds next to nothing there; and many rows inside it."""
    width = min(max(2 * host.last_level_bytes() // 4, LEAST_SOFTMAX_WIDTH), MOST_SOFTMAX_WIDTH)
    yield {"rows": 1.0, "width": float(width)}
    yield dict(CACHED_SOFTMAX)


SHAPES: dict[str, Callable[[], Iterable[dict[str, float]]]] = {
    "gemm": _gemms,
    "attention_prefill": _prefills,
    "attention_decode": _decodes,
    "grouped_gemm": _experts,
    "batched_gemm": lambda: ({"batch": b, "m": m, "n": 128, "k": 512} for b, m in ((16, 1), (16, 64))),
    "norm": _wide,
    "rotary": _wide,
    "activation": _wide,
    "embedding": _wide,
    "elementwise": lambda: (
        {"read_elements": 2.0 * n, "write_elements": 1.0 * n} for n in (1 << 20, 1 << 12, 1 << 16, 1 << 23)
    ),
    "sampling": lambda: ({"sequences": s, "vocab": v} for s, v in VOCABULARIES),
    "softmax": _softmax,
    **{f"softmax_{name}": _softmax for name in SOFTMAX},
    **{f"stream_{name}": _stream for name in STREAM},
    "memory_copy": lambda: ({"message_bytes": size} for size in COPIED_BYTES),
    "launch": lambda: ({"size": 1.0},),
    "decoder_layer": _layers,
}
STREAMS = tuple(f"stream_{name}" for name in STREAM)

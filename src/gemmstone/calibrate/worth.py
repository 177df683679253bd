"""What is worth predicting on a machine, and what may be measured there: shapes of Llama-like models of its size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gemmstone.calibrate import information
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.core.hardware import Device
from gemmstone.core.measurement import Call
from gemmstone.measure import machine, peak

Shapes = list[dict[str, float]]
# hidden size, intermediate size, heads, KV heads, head dim, vocabulary: of models of 50 million to 1 billion parameters
MODELS = (
    (384, 1024, 6, 6, 64, 32000),
    (512, 1408, 8, 8, 64, 32000),
    (576, 1536, 9, 3, 64, 49152),
    (768, 2048, 12, 4, 64, 32000),
    (960, 2560, 15, 5, 64, 49152),
    (1024, 2816, 16, 8, 64, 32000),
    (1024, 4096, 16, 4, 64, 32000),
    (1280, 3584, 20, 4, 64, 32000),
    (2048, 5632, 32, 4, 64, 32000),
)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
PROMPTS = (
    (1, 64),
    (1, 128),
    (1, 256),
    (1, 512),
    (1, 1024),
    (1, 2048),
    (4, 64),
    (4, 256),
    (4, 512),
    (16, 64),
    (16, 128),
)
STEPS = tuple((batch, context) for batch in (1, 2, 4, 8, 16) for context in (64, 256, 512, 1024, 2048))
MATRICES = (
    *((n, k) for n in (512, 1024, 2048, 4096) for k in (512, 1024, 2048, 4096)),
    (1536, 512),
    (2816, 1024),
    (1024, 2816),
)
VOCABULARY = ((32000, 512), (32000, 1024))
HEADS = ((8, 8, 64), (16, 4, 64), (12, 12, 64), (16, 16, 64), (8, 2, 128), (9, 3, 64))


def matrices() -> Iterator[tuple[float, float]]:
    """Columns and depth [n, k] of the products of MODELS, as PyTorch makes them: one a projection."""
    for hidden, wide, heads, kv_heads, dim, vocab in MODELS:
        yield from ((heads * dim, hidden), (kv_heads * dim, hidden), (wide, hidden), (hidden, wide), (vocab, hidden))


def _gemms() -> tuple[Shapes, Shapes]:
    measurable = [{"m": float(m), "n": float(n), "k": float(k)} for n, k in MATRICES for m in ROWS]
    measurable += [{"m": float(m), "n": float(n), "k": float(k)} for n, k in VOCABULARY for m in (1, 4, 16)]
    worth = [
        {"m": float(m), "n": float(n), "k": float(k)}
        for n, k in matrices()
        for m in (*ROWS[::2], 16)
        if n < 32000 or m <= 16
    ]
    return measurable, worth


def _attention(length: str, points: Sequence[tuple[int, int]]) -> tuple[Shapes, Shapes]:
    def shape(batch: int, size: int, heads: int, kv_heads: int, dim: int) -> dict[str, float]:
        names = ("batch", length, "heads", "kv_heads", "head_dim")
        return dict(zip(names, map(float, (batch, size, heads, kv_heads, dim)), strict=True))

    measurable = [shape(*point, *heads) for point in points for heads in HEADS]
    worth = [shape(*point, *model[2:5]) for point in points for model in MODELS]
    return measurable, worth


SPACES: dict[str, Callable[[], tuple[Shapes, Shapes]]] = {
    "gemm": _gemms,
    "attention_prefill": lambda: _attention("tokens", PROMPTS),
    "attention_decode": lambda: _attention("context", STEPS),
}


COUNTS = {"gemm": 48, "attention_prefill": 16, "attention_decode": 20}  # calls that are worth their time, a format
GUESSED_BYTES_PER_S = 8e9  # of a processor core's share of memory, before it was measured


def guessed(device: str, threads: int = 0) -> Device | None:
    """The device about to be measured, as far as is known before: its peak, and a guess of its memory; None of an unknown GPU."""
    if device != "cpu":
        gpus, place = machine.gpus(), int(device.partition(":")[2] or 0)
        try:
            return device_files.find(str(gpus[place]["name"])) if place < len(gpus) else None
        except BadRequest:
            return None
    cores = threads or peak.usable_cores()
    try:
        fp32 = peak.peak_flop_per_s("fp32", cores)
    except (BadRequest, MissingBackend):
        fp32 = GUESSED_FLOP_PER_S * cores
    return Device(
        slug=calibration_files.THIS_MACHINE,
        name="this machine",
        vendor="",
        architecture="",
        kind="cpu",
        peak_flop_per_s={"fp32": fp32},
        memory_bytes=0.0,
        memory_bandwidth_bytes_per_s=GUESSED_BYTES_PER_S * cores,
        compute_units=cores,
    )


MOST_SUGGESTED = 500
GUESSED_FLOP_PER_S = 5e10  # of a core, where no loop can be compiled


def calls(family: str, dtype: str, device: Device) -> list[Call]:
    """The calls of a family to measure on a device, most telling first; none of a family or format that nothing is known of."""
    if family not in SPACES or dtype not in ("fp32", "bf16", "fp16"):
        return []
    return [call for call, _ in order(family, dtype, device, COUNTS[family])]


def suggested(name: str, count: int, family: str, formats: Sequence[str] = ("bf16", "fp32")) -> list[dict[str, Any]]:
    """Calls to measure first on a machine of one's own, in the columns of a user's file, the formats in turns."""
    if not 1 <= count <= MOST_SUGGESTED:
        raise BadRequest(f"--suggest is between 1 and {MOST_SUGGESTED}, not {count}")
    device = device_files.find(name) if calibration_files.machine(name) else guessed("cpu")
    if device is None:
        raise BadRequest(f"nothing is known of {name}: measure it, with gemmstone measure kernels")
    each = -(-count // len(formats))
    turns = zip(*(order(family, dtype, device, each) for dtype in formats), strict=False)
    rows = [
        {"family": family, "device": name, "engine": "pytorch", "dtype": call.dtype, **call.shape, "left_frac": left}
        for turn in turns
        for call, left in turn
    ]
    return rows[:count]


def order(family: str, dtype: str, device: Device, count: int) -> list[tuple[Call, float]]:
    """The first `count` calls of a family to measure on a device, most telling first, each with the share of what is left unknown."""
    if family not in SPACES:
        raise BadRequest(f"which {family} to measure first is not known: {', '.join(SPACES)} alone")
    measurable, worth = SPACES[family]()
    return information.choose(information.space(family, dtype, measurable, worth, device), count=count)

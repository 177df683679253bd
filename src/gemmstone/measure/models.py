"""Whole forward passes of a model with random weights on this machine: prompts, and steps of decoding over a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gemmstone.core import dtypes
from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call, Measurement
from gemmstone.core.model import Attention, DenseMLP, Model
from gemmstone.graph import parameters
from gemmstone.measure import host
from gemmstone.measure.backends import Prepared, backend
from gemmstone.measure.conditions import watching
from gemmstone.measure.peak import usable_cores
from gemmstone.measure.timing import timed

BACKEND = "pytorch"
KINDS = ("prefill", "decode")
ROUNDS = 2  # passes over all of them, minutes apart where there are many
LIMIT_S = 4.0  # of sampling one
ROOM_FRAC = 0.8  # of the free memory
FORMATS = ("fp32", "bf16", "fp16")
MOST_TOKENS = 1 << 20


class Case(NamedTuple):
    """A forward pass: `tokens` of a prompt, or one token behind as many, of each of `batch` sequences."""

    kind: str
    batch: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which passes of a model to measure, and how."""

    model: Model
    cases: tuple[Case, ...]
    dtype: str = "bf16"
    device: str = "cpu"
    threads: int = 0
    rounds: int = ROUNDS
    limit_s: float = LIMIT_S


def cases(inputs: Sequence[int], batches: Sequence[int]) -> tuple[Case, ...]:
    """A prompt and a step of decoding for each pair of numbers. Raises BadRequest for numbers that are none."""
    for name, values in (("input", inputs), ("batch", batches)):
        if not values or not all(1 <= value <= MOST_TOKENS for value in values):
            raise BadRequest(f"--{name} has whole numbers from 1 to {MOST_TOKENS}, as 64,512")
    return tuple(Case(kind, batch, tokens) for kind in KINDS for batch in batches for tokens in inputs)


def checked(asked: Asked) -> None:
    """Raises BadRequest for a model, format or size that cannot be measured here, before anything is allocated."""
    for layer in asked.model.layers:
        block = layer.mixer
        if not isinstance(block, Attention) or not isinstance(layer.feed_forward, DenseMLP) or block.window:
            raise BadRequest(
                f"{asked.model.name} is not of Llama's shape (full softmax attention, dense MLPs), which is what is measured whole"
            )
    if asked.dtype not in FORMATS:
        raise BadRequest(f"models are measured in {', '.join(FORMATS)}, not in {asked.dtype}")
    cores = usable_cores()
    if not 0 <= asked.threads <= cores:
        raise BadRequest(f"--threads is between 1 and {cores}, the processors that this process may use")


def needed_bytes(model: Model, dtype: str, case: Case) -> float:
    """Bytes of the weights, a case's cache and the widest of its activations with their fp32 copies."""
    element = dtypes.size(dtype)
    kept = sum(
        2.0 * layer.count * block.num_kv_heads * block.head_dim
        for layer in model.layers
        if isinstance(block := layer.mixer, Attention)
    )
    cached = kept * case.batch * (case.tokens + 1)
    rows = case.batch * (case.tokens if case.kind == "prefill" else 1)
    inner = max(mlp.intermediate_size for layer in model.layers if isinstance(mlp := layer.feed_forward, DenseMLP))
    activations = rows * (3.0 * inner + 8.0 * model.hidden_size) * (element + dtypes.size("fp32"))
    logits = 3.0 * case.batch * model.vocab_size * dtypes.size("fp32")
    return parameters.count(model).total * element + cached * element + activations + logits


def measured(
    asked: Asked, *, progress: Callable[[float, float, str], None] = lambda done, total, what: None
) -> Iterator[Measurement]:
    """Each case in each round, as soon as it is there. Raises BadRequest for what the memory cannot hold, before it is tried."""
    checked(asked)
    module = backend(BACKEND)
    if asked.device not in module.devices():
        raise BadRequest(f"there is no {asked.device} here: {', '.join(module.devices())}")
    room = ROOM_FRAC * _free_bytes(asked.device)
    for case in asked.cases:
        needs = needed_bytes(asked.model, asked.dtype, case)
        if needs > room:
            raise BadRequest(
                f"{asked.model.name} in {asked.dtype}, batch {case.batch} with {case.tokens} tokens, needs {needs / 2**30:.1f} GiB "
                f"and {room / 2**30:.1f} GiB can be used: a smaller batch, prompt or model"
            )
    yield from _rounds(asked, module, progress)


def _rounds(asked: Asked, module: Any, progress: Callable[[float, float, str], None]) -> Iterator[Measurement]:
    import torch

    from gemmstone.measure.backends.pytorch import FORMATS as TORCH
    from gemmstone.measure.pytorch.forward import prepared
    from gemmstone.measure.pytorch.llama import llama

    threads = asked.threads or (usable_cores() if asked.device == "cpu" else 1)
    total = float(asked.rounds * len(asked.cases))
    with module.around(threads, asked.device, asked.dtype):
        made = llama(asked.model, getattr(torch, TORCH[asked.dtype]), asked.device)
        for number in range(asked.rounds):
            for place, case in enumerate(asked.cases):
                progress(
                    number * len(asked.cases) + place, total, f"{case.kind} batch {case.batch} tokens {case.tokens}"
                )
                ready = prepared(made, case.kind, case.batch, case.tokens, asked.device)
                yield _one(asked, case, ready, number, threads, module.version())


def _one(asked: Asked, case: Case, ready: Prepared, number: int, threads: int, version: str) -> Measurement:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    plain = ready._replace(around=nullcontext)  # the settings are those of the whole round
    with watching(asked.device) as watched:
        samples = timed(plain, limit_s=asked.limit_s)
    return Measurement(
        call=Call(
            family=f"model_{case.kind}",
            dtype=asked.dtype,
            shape={"batch": float(case.batch), "tokens": float(case.tokens)},
        ),
        backend=BACKEND,
        version=version,
        device=asked.device,
        threads=threads,
        samples_s=samples.samples_s,
        warm_up=samples.warm_up,
        calls=samples.calls,
        round=number,
        conditions=watched.conditions,
        started=started,
    )


def _free_bytes(device: str) -> float:
    if device == "cpu":
        return float(host.available_bytes())
    import torch

    return float(torch.cuda.mem_get_info(device)[0])

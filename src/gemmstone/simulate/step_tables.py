"""Step times for a simulator: a StepTimer evaluated once over a grid, then read in nanoseconds.

A step decodes B sequences whose caches hold S tokens together and computes P prompt tokens that attend to A keys in all:

    t(B, S, P, A) = decode(B, S / B) + prompt(B, P, A / P)        beside(B, S / B) + prompt(...) where P > 0

`decode` is tabulated for every B, piecewise linear in the mean context S / B; `prompt` is what prompt tokens add to the
step, larger where they have its linear layers to themselves, on a grid that is linear in between. Attention of decoding
sequences may take longer beside prompts, which is `beside`: at a usual context, where the sum is evaluated, the same as
`decode`. How much longer does not depend on the prompts, which makes it a sum; an eager engine that waits for launches in
small steps and for the device in large ones is known to some 10% in between.
The second number of every entry is joules of one device above its standing power.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array, Step
from gemmstone.graph import techniques
from gemmstone.simulate.engine.compiled import compiled, entry
from gemmstone.simulate.requests import Integers
from gemmstone.simulate.steady import Timer

SECONDS, JOULES = 0, 1
DENSE_SEQS = 64  # batches up to here are evaluated one by one, larger ones on a grid
PER_OCTAVE = {"sequences": 8, "context": 2, "prompt": 4, "attended": 2, "beside": 1}  # grid points per doubling
USUAL_CONTEXT = 1024.0  # of sequences beside which prompts are evaluated
USUAL_PROMPT = 512.0  # tokens of a prompt beside which sequences are evaluated: it drops out of the difference


MOST_SEQUENCES = 16384  # that one engine decodes at once
CONTEXTS, BATCHES, PROMPTS, KEYS = 48, 24, 96, 48  # grid points there is room for
StepTable = Any  # a record of TABLE

TABLE = np.dtype(
    [
        ("last", np.int64),  # pieces between the contexts, less one
        ("last_beside", np.int64),
        ("last_prompt", np.int64),
        ("last_attended", np.int64),
        ("growth", np.float64),  # tokens a decoding sequence gains in a step
        ("context", np.float64, CONTEXTS),  # mean tokens in the caches of decoding sequences
        ("beside", np.float64, BATCHES),  # batches beside which prompts were evaluated
        ("prompt_tokens", np.float64, PROMPTS),
        ("attended", np.float64, KEYS),  # mean keys that a prompt token attends to
        ("prompt", np.float64, (BATCHES, PROMPTS, KEYS, 2)),
        ("decode", np.float64, (MOST_SEQUENCES + 1, CONTEXTS, 2)),  # no sequences: no step
        ("decode_beside", np.float64, (MOST_SEQUENCES + 1, CONTEXTS, 2)),  # in a step with prompts
    ]
)


@compiled
def segment(nodes: Array, last: int, value: float) -> int:
    """The piece between nodes that a value lies in: 0 to last."""
    low, high = 0, last + 1
    while high - low > 1:
        middle = (low + high) >> 1
        if nodes[middle] <= value:
            low = middle
        else:
            high = middle
    return low


@compiled
def decode_value(table: StepTable, sequences: int, context: float, what: int) -> float:
    """Seconds or joules of a step that decodes so many sequences of a mean context."""
    at = segment(table.context, table.last, context)
    low, high = table.context[at], table.context[at + 1]
    one, other = table.decode[sequences, at, what], table.decode[sequences, at + 1, what]
    return float(one + (other - one) * ((context - low) / (high - low)))


@compiled
def beside_value(table: StepTable, sequences: int, context: float, what: int) -> float:
    """Seconds or joules of decoding in a step that computes prompts, too."""
    if sequences == 0:
        return 0.0
    at = segment(table.context, table.last, context)
    low, high = table.context[at], table.context[at + 1]
    one, other = table.decode_beside[sequences, at, what], table.decode_beside[sequences, at + 1, what]
    return float(one + (other - one) * ((context - low) / (high - low)))


@compiled
def prompt_value(table: StepTable, sequences: int, tokens: int, attended: float, what: int) -> float:
    """Seconds or joules that prompt tokens with so many attended keys in all add to a step of decoding sequences."""
    if tokens == 0:
        return 0.0
    mean = attended / tokens
    w = segment(table.attended, table.last_attended, mean)
    w_share = max((mean - table.attended[w]) / (table.attended[w + 1] - table.attended[w]), 0.0)
    b = segment(table.beside, table.last_beside, sequences)
    b_share = (sequences - table.beside[b]) / (table.beside[b + 1] - table.beside[b])
    p = segment(table.prompt_tokens, table.last_prompt, tokens)
    p_share = (tokens - table.prompt_tokens[p]) / (table.prompt_tokens[p + 1] - table.prompt_tokens[p])
    total = 0.0
    for i in range(2):
        b_weight = b_share if i else 1.0 - b_share
        if b_weight != 0.0:
            for j in range(2):
                low, high = table.prompt[b + i, p + j, w, what], table.prompt[b + i, p + j, w + 1, what]
                total += b_weight * (p_share if j else 1.0 - p_share) * (low + (high - low) * w_share)
    return float(total)


@entry
def step_s(table: StepTable, sequences: int, context_sum: float, prompt_tokens: int, attended: float) -> float:
    """Seconds of a step: `sequences` decode whose caches hold `context_sum` tokens together, and prompt tokens that attend
    to `attended` keys in all are computed."""
    context = context_sum / sequences if sequences else 0.0
    if prompt_tokens == 0:
        return decode_value(table, sequences, context, SECONDS) if sequences else 0.0
    decoding = beside_value(table, sequences, context, SECONDS)
    return decoding + prompt_value(table, sequences, prompt_tokens, attended, SECONDS)


def compile_steps(timer: Timer, most_sequences: int, most_prompt_tokens: int, longest: float) -> StepTable:
    """The table of a replica, up to so many sequences and prompt tokens a step and tokens a request.

    Counts are of the whole replica. Sequences and prompts lie evenly on the ranks of attention data parallelism, whose experts
    compute for all: that one of them may have a prompt to itself is left out. Micro-batches of a pipeline cannot overtake
    each other, so where one carries a prompt the others wait for it (as simulate.steady has it).
    """
    most_sequences = min(most_sequences, MOST_SEQUENCES)
    longest = max(float(longest), 4.0)
    context = _octaves(1.0, longest, PER_OCTAVE["context"])[:CONTEXTS]
    sequences = _counts(most_sequences, DENSE_SEQS, PER_OCTAVE["sequences"])
    beside = _counts(most_sequences, 2, PER_OCTAVE["beside"], least=0)
    tokens = _counts(most_prompt_tokens, 2, PER_OCTAVE["prompt"])
    attended = _octaves(0.5, longest, PER_OCTAVE["attended"])[:KEYS]
    decode = _decode(timer, sequences, context, most_sequences)
    with_prompts = _decode(timer, sequences, context, most_sequences, prompts=1.0)
    prompt = _prompt(timer, beside, tokens, attended)
    growth = techniques.tokens_per_step(timer.deployment.techniques)
    return from_grids(context, decode, beside, tokens, attended, prompt, growth, with_prompts)


def linear(
    base_s: float,
    per_sequence_s: float = 0.0,
    per_context_s: float = 0.0,
    per_prompt_token_s: float = 0.0,
    *,
    per_attended_s: float = 0.0,
    watts: float = 0.0,
    most_sequences: int = 1024,
) -> StepTable:
    """A table of exactly linear steps: base + per_sequence B + per_context S + per_prompt_token P + per_attended A.

    A step without decoding sequences costs the base, too. For closed forms and tests.
    """
    context = np.array([0.0, 2.0**24])
    count = np.arange(most_sequences + 1.0)
    decode = base_s + count[:, None] * (per_sequence_s + per_context_s * context[None, :])
    decode[0] = 0.0
    tokens, attended = np.array([0.0, 2.0**24]), np.array([0.0, 2.0**24])
    alone = per_prompt_token_s * tokens[:, None] + per_attended_s * tokens[:, None] * attended[None, :]
    # Beside nothing the prompts' step has a base of its own.
    prompt = np.stack([alone + base_s, alone, alone])
    spent = np.array([1.0, watts])
    beside = np.array([0.0, 1.0, 2.0**24])
    return from_grids(context, decode[..., None] * spent, beside, tokens, attended, prompt[..., None] * spent, 1.0)


def constant(seconds_per_step: float) -> StepTable:
    """A table whose every step takes the same time."""
    return linear(seconds_per_step)


def from_grids(
    context: Array,
    decode: Array,
    beside: Array,
    tokens: Array,
    attended: Array,
    prompt: Array,
    growth: float = 1.0,
    decode_beside: Array | None = None,
) -> StepTable:
    """A record of TABLE from grids and the values on them, seconds and joules on the last axis.

    decode [B, c, 2], B from 0; prompt [beside, P, w, 2]; decode_beside: decoding in a step with prompts, where it differs.
    """
    made = np.zeros(1, dtype=TABLE)
    table = made[0]
    table["growth"] = growth
    for name, last, nodes in (
        ("context", "last", context),
        ("beside", "last_beside", beside),
        ("prompt_tokens", "last_prompt", tokens),
        ("attended", "last_attended", attended),
    ):
        table[name][: len(nodes)] = nodes
        table[last] = len(nodes) - 2
    for name, values in (("decode", decode), ("decode_beside", decode if decode_beside is None else decode_beside)):
        table[name][: values.shape[0], : values.shape[1]] = values
    table["prompt"][: prompt.shape[0], : prompt.shape[1], : prompt.shape[2]] = prompt
    return table


def _octaves(first: float, last: float, per_octave: int) -> Array:
    """Points from first to at least last, so many per doubling."""
    steps = max(2, int(np.ceil(np.log2(last / first) * per_octave)) + 1)
    return np.asarray(first * 2.0 ** (np.arange(steps) / per_octave), dtype=float)


def _counts(last: int, dense: int, per_octave: int, least: int = 1) -> Array:
    """Whole numbers from least to last: each one at first, then so many per doubling; at least two."""
    some = np.round(_octaves(float(max(dense, 1)), float(max(last, dense + 1)), per_octave))
    found = np.unique(np.concatenate([np.arange(least, dense + 1), some]))
    found = found[found < last]
    return np.asarray(
        np.unique(np.concatenate([found, [last, *([last + 1.0] if len(found) == 0 else [])]])), dtype=float
    )


def _places(grid: Array, most: int) -> tuple[Integers, Array]:
    """For every whole number up to most: its lower neighbour on a grid, and the share of the way to the next."""
    numbers = np.arange(most + 1.0)
    at = np.clip(np.searchsorted(grid, numbers, side="right") - 1, 0, len(grid) - 2)
    frac = np.maximum((numbers - grid[at]) / (grid[at + 1] - grid[at]), 0.0)
    return at.astype(np.int32), frac


def _values(timer: Timer, step: Step, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    tree = timer.estimate(step)
    joules = np.broadcast_to(tree.energy_j, tree.time_s.shape)
    return np.stack([tree.time_s, joules], axis=-1).reshape(*shape, 2)


def _share(timer: Timer, sequences: Array) -> Array:
    """Sequences, or prompts, of one micro-batch of one rank; a few leave micro-batches empty rather than share one."""
    run = timer.deployment
    of_rank = sequences / run.attention_dp
    return np.maximum(of_rank / run.pipeline_parallel, np.minimum(of_rank, 1.0))


def _decode_step(timer: Timer, sequences: Array, context: Array, prompts: float = 0.0) -> Step:
    return Step(
        prefill_seqs=np.full_like(sequences, prompts),
        prefill_tokens=USUAL_PROMPT * prompts,
        decode_seqs=_share(timer, sequences),
        decode_context=context,
    )


def _decode(timer: Timer, sequences: Array, context: Array, most: int, prompts: float = 0.0) -> npt.NDArray[np.float64]:
    """Values [B, c, 2] of decoding for every batch up to `most`; beside prompts what they are more than at a usual context."""
    grid_b, grid_c = (axis.ravel() for axis in np.meshgrid(sequences, context, indexing="ij"))
    shape = (len(sequences), len(context))
    values = _values(timer, _decode_step(timer, grid_b, grid_c, prompts), shape)
    if prompts:
        usual = np.full_like(sequences, USUAL_CONTEXT)
        with_them, without = (
            _values(timer, _decode_step(timer, sequences, usual, some), (len(sequences), 1)) for some in (prompts, 0.0)
        )
        values = values - with_them + without
    at, frac = _places(sequences, most)
    dense = values[at] + (values[at + 1] - values[at]) * frac[:, None, None]
    dense[0] = 0.0
    return np.asarray(dense, dtype=float)


def _prompt(timer: Timer, beside: Array, tokens: Array, attended: Array) -> npt.NDArray[np.float64]:
    """Values [B, P, w, 2] that prompts add to a step: whole ones where they attend to few keys, else the end of a long one."""
    grid_b, grid_p, grid_w = (axis.ravel() for axis in np.meshgrid(beside, tokens, attended, indexing="ij"))
    whole = grid_w < grid_p / 2.0
    each = np.where(whole, np.maximum(2.0 * grid_w, 1.0), grid_p)
    prompts = grid_p / each
    past = np.where(whole, 0.0, grid_w - grid_p / 2.0)
    usual = np.full_like(grid_b, USUAL_CONTEXT)
    step = Step(
        prefill_seqs=_share(timer, prompts),
        prefill_tokens=each,
        prefill_past=past,
        decode_seqs=_share(timer, grid_b),
        decode_context=usual,
    )
    shape = (len(beside), len(tokens), len(attended))
    whole_step = _values(timer, step, shape)
    alone = _values(timer, _decode_step(timer, grid_b, usual), shape)
    alone[beside == 0] = 0.0
    added = np.maximum(whole_step - alone, 0.0)
    # Only the micro-batches that carry a prompt work for it.
    run = timer.deployment
    carrying = prompts / (run.attention_dp * run.pipeline_parallel) / _share(timer, prompts)
    added[..., JOULES] *= carrying.reshape(shape)
    return np.asarray(added, dtype=float)

"""What the house asks of a kind of block: its operations, its parameters, what it keeps of a sequence, how it may be split.

A kind is one file with one KIND and one row in graph.blocks.KINDS. Nothing outside knows what it is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gemmstone.core.deployment import Deployment, Numbers, Step
from gemmstone.core.work import Op
from gemmstone.ops import collective, elementwise, matmul

ACTIVATION_BYTES = 2.0  # activations travel and rest in bf16


class Place(NamedTuple):
    """Where and for what the operations are built: the width of the model, how it is split, and what the step executes.

    `reduced` is whether the block's partial sums are joined at once: blocks that share one residual join together.
    """

    hidden: int
    deployment: Deployment
    step: Step
    reduced: bool = True

    @property
    def tokens(self) -> Any:
        """Tokens of one attention-DP rank."""
        return self.step.tokens

    @property
    def prompts(self) -> dict[str, Any]:
        """Sequences whose prompts are computed, in the words of the operations."""
        step = self.step
        return {"batch": step.prefill_seqs, "tokens": step.prefill_tokens, "past": step.prefill_past}

    @property
    def decoding(self) -> dict[str, Any]:
        """Sequences that decode, in the words of the operations."""
        step = self.step
        return {"batch": step.decode_seqs, "context": step.decode_context, "queries": step.decode_tokens}

    @property
    def stage_tokens(self) -> Any:
        """Tokens of all attention-DP ranks of a stage: what the experts see."""
        return self.step.tokens * self.deployment.attention_dp


class Cache(NamedTuple):
    """What one layer keeps of a sequence on one device.

    token_elements: elements in the cache's number format a token. token_bytes: bytes a token in a format of the block's own.
    window: tokens kept at most, 0 for all. state_bytes: bytes a sequence, whatever its length. element_bytes: of the tokens'
    elements where they are kept in another format than the deployment says, else 0. tier: where all that lies.
    """

    token_elements: float = 0.0
    token_bytes: float = 0.0
    window: float = 0.0
    state_bytes: float = 0.0
    element_bytes: float = 0.0
    tier: str = "device"

    def bytes(self, tokens: Numbers, element_bytes: float) -> Any:
        """Bytes kept of a sequence of so many tokens, in the deployment's `element_bytes` unless the cache has its own."""
        kept = np.minimum(tokens, self.window) if self.window else tokens
        return (
            kept * (self.token_elements * (self.element_bytes or element_bytes) + self.token_bytes) + self.state_bytes
        )


def _nothing(block: object, run: Deployment | None) -> Cache:
    return Cache()


def _splits(block: object, tensor_parallel: int, uneven: bool) -> str:
    return ""


def _none_idle(block: object, hidden: int) -> int:
    return 0


class Kind(NamedTuple):
    """One kind of block. `hidden` is the model's hidden_size.

    ops(block, place): what one device executes.
    matrices(block, hidden): elements of the matrices, which are what quantisation shrinks.
    others(block, hidden): all its other parameters: biases, norms, routers, gates.
    width(block, deployment): elements of the tensors alive at once for one token, beside the residual.
    cache(block, deployment): what it keeps of a sequence on one device; of the whole model without a deployment.
    split_problem(block, tensor_parallel, uneven): why it cannot be split so many ways, empty when it can; `uneven` where
    the engine pads ranks. The message continues "tp 3 ...".
    idle(block, hidden): parameters that one token does not use.
    """

    ops: Callable[[Any, Place], Iterator[Op]]
    matrices: Callable[[Any, int], int]
    others: Callable[[Any, int], int]
    width: Callable[[Any, Deployment], float]
    cache: Callable[[Any, Deployment | None], Cache] = _nothing
    split_problem: Callable[[Any, int, bool], str] = _splits
    idle: Callable[[Any, int], int] = _none_idle


def shard(heads: int, ways: int) -> int:
    """Heads one of `ways` tensor ranks holds; fewer heads than ranks are replicated."""
    return max(1, math.ceil(heads / ways))


def heads_problem(heads: int, kv_heads: int, tensor_parallel: int, uneven: bool) -> str:
    """Why attention heads cannot be split so many ways; empty when they can."""
    if uneven:
        return f"exceeds the {heads} attention heads" if tensor_parallel > heads else ""
    if heads % tensor_parallel:
        return heads_divide(heads, "attention heads", tensor_parallel, uneven)
    if kv_heads % tensor_parallel and tensor_parallel % kv_heads:
        return f"neither divides nor is a multiple of the {kv_heads} KV heads"
    return ""


def heads_divide(heads: int, called: str, tensor_parallel: int, uneven: bool) -> str:
    """Why heads that share nothing cannot be split so many ways; empty when they can."""
    if uneven:
        return f"exceeds the {heads} {called}" if tensor_parallel > heads else ""
    if heads % tensor_parallel:
        fitting = ", ".join(str(d) for d in range(1, min(heads, 64) + 1) if heads % d == 0)
        return f"does not divide the {heads} {called}: use one of {fitting}"
    return ""


def mlp_matrices(width: float, gated: bool, place: Place, prefix: str = "") -> Iterator[Op]:
    """Up (and gate), activation and down of one rank's slice of the intermediate width."""
    run = place.deployment
    project = partial(matmul.gemm, weights=run.weights, activations=run.activations)
    wide = 2 * width if gated else width
    yield project(prefix + ("gate_up_proj" if gated else "up_proj"), m=place.tokens, n=wide, k=place.hidden)
    yield elementwise.activation(prefix + "activation", tokens=place.tokens, width=width, gated=gated)
    yield project(prefix + "down_proj", m=place.tokens, n=place.hidden, k=width)


def tensor_all_reduce(name: str, place: Place) -> Iterator[Op]:
    """The sum over tensor ranks that ends a block, unless a later block's covers it."""
    ranks = place.deployment.tensor_parallel
    if ranks > 1 and place.reduced:
        message = place.tokens * place.hidden * ACTIVATION_BYTES
        yield collective.all_reduce(name, message_bytes=message, ranks=ranks)

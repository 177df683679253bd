"""Lambda-shaped attention: every token sees the first `sinks` tokens and the last `window` (StreamingLLM, LM-Infinite, AccLLM).

The cache stops growing at sinks + window tokens, and so does what attention reads and computes a token. How good the
answers remain is not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Attention, Model
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import Cache
from gemmstone.graph.build import Groups
from gemmstone.graph.techniques.technique import Technique
from gemmstone.ops import attention


@dataclass(frozen=True, kw_only=True)
class LambdaAttention:
    """Tokens at the beginning and before the query that it sees."""

    sinks: int = 4
    window: int = 2048

    @property
    def kept(self) -> int:
        """Tokens that stay in the cache at most."""
        return self.sinks + self.window


def _problem(settings: LambdaAttention, model: Model, run: Deployment) -> str:
    if settings.sinks < 0 or settings.window < 1:
        return "lambda-attention needs a window of at least one token and no fewer than 0 sinks"
    if not all(isinstance(layer.mixer, Attention | None) for layer in model.layers):
        return f"lambda-attention needs plain attention in every layer, which {model.name} does not have"
    return ""


def _step(settings: LambdaAttention, step: Step) -> Step:
    return replace(step, decode_context=np.minimum(step.decode_context, float(settings.kept)))


def _prefill(settings: LambdaAttention, run: Deployment, op: Op) -> Op:
    own = float(np.max(op.shape["window"]))
    return attention.prefill(
        op.name,
        batch=op.shape["batch"],
        tokens=op.shape["tokens"],
        past=op.shape["past"],
        heads=op.shape["heads"],
        kv_heads=op.shape["kv_heads"],
        head_dim=op.shape["head_dim"],
        window=min(own or settings.kept, settings.kept),
        kv_cache=run.kv_cache,
        count=op.count,
    )


def _ops(settings: LambdaAttention, model: Model, run: Deployment, step: Step, groups: Groups) -> Groups:
    return tuple(
        group._replace(
            ops=tuple(_prefill(settings, run, op) if op.kind == "attention_prefill" else op for op in group.ops)
        )
        for group in groups
    )


def _cache(settings: LambdaAttention, cache: Cache, run: Deployment) -> Cache:
    return cache._replace(window=min(cache.window or settings.kept, settings.kept))


TECHNIQUE = Technique(
    name="lambda-attention",
    title="Attention to sinks and a window",
    source="StreamingLLM, arXiv:2309.17453; AccLLM, arXiv:2505.03745",
    settings=LambdaAttention,
    problem=_problem,
    step=_step,
    ops=_ops,
    cache=_cache,
    lossless=False,
)

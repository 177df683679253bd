"""Speculative decoding (Leviathan and others, arXiv:2211.17192): a draft proposes K tokens, one step verifies them all.

With the chance a that a proposed token is accepted, independent of the others, a step yields (equation 1)

    (1 - a^(K+1)) / (1 - a)

tokens: the accepted ones and one of the model's own. Verification carries K + 1 tokens of every sequence. Drafting costs K
passes in a row of

- `draft=NAME`: another model of the same vocabulary, in 16 bits, split as the model is where its heads allow, whole on every
  rank where not; its weights and its cache lie on the device;
- `draft=` (left out): one layer behind a product that joins embedding and hidden state, with the model's own embedding and
  head, in every pass: the model's module for multi-token prediction where it has one (DeepSeek-V3, arXiv:2412.19437,
  section 2.2), elsewhere a layer like the model's last, as the heads of EAGLE (arXiv:2401.15077);
- `draft=ngram`: nothing: the tokens are looked up in the prompt.

The prompts of a step ride in the draft's first pass. So do tokens that it has to read again after a verification, which are
not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from gemmstone.catalog import model_files
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Model
from gemmstone.core.work import Op
from gemmstone.graph.blocks import blocks, kind
from gemmstone.graph.blocks.kind import Cache
from gemmstone.graph.build import LAYERS, Groups, OpGroup, build
from gemmstone.graph.families import build_model
from gemmstone.graph.techniques.technique import Technique
from gemmstone.ops import elementwise, matmul

MOST_TOKENS = 64
LOOKED_UP = "ngram"
PADDING = 256  # rows by which padded vocabularies of one family differ, as 151,936 and 152,064 in Qwen2.5


@dataclass(frozen=True, kw_only=True)
class Speculative:
    """Drafted tokens a step, the chance that one is accepted, and who drafts them."""

    tokens: int = 1
    accept: float = 0.8
    draft: str = ""


class Drafter(NamedTuple):
    """What runs to draft: a model, how it is run, and whether embedding and head are those of the model it serves."""

    model: Model
    run: Deployment
    shares_ends: bool


def tokens_per_step(settings: Speculative) -> float:
    """Expected tokens of one step.

    >>> tokens_per_step(Speculative(tokens=1, accept=0.8)), tokens_per_step(Speculative(tokens=3, accept=1.0))
    (1.8, 4.0)
    """
    return float(sum(settings.accept**accepted for accepted in range(settings.tokens + 1)))


@lru_cache(maxsize=64)
def _find(name: str) -> Model:
    return build_model(model_files.find(name))


def drafter(settings: Speculative, model: Model, run: Deployment) -> Drafter | None:
    """Who drafts, None where tokens are looked up. Raises BadRequest for a draft model that is not known."""
    if settings.draft == LOOKED_UP:
        return None
    if not settings.draft:
        layer = (model.mtp_layers or model.layers)[-1]
        return Drafter(replace(model, layers=(replace(layer, count=1),), tower=None), run, True)
    draft = _find(settings.draft)
    tp = run.tensor_parallel
    splits = not any(kind(block).split_problem(block, tp, False) for layer in draft.layers for block in blocks(layer))
    wide = run.model_dtype
    own = replace(
        run,
        tensor_parallel=tp if splits else 1,
        expert_parallel=1,
        weights=wide,
        activations=wide,
        attention_weights=wide,
        attention_activations=wide,
    )
    return Drafter(draft, own, False)


def _problem(settings: Speculative, model: Model, run: Deployment) -> str:
    if not 1 <= settings.tokens <= MOST_TOKENS:
        return f"speculative drafts 1 to {MOST_TOKENS} tokens a step, not {settings.tokens}"
    if not 0 <= settings.accept <= 1:
        return f"speculative accepts a share of the tokens from 0 to 1, not {settings.accept:g}"
    if not model.has_head:
        return f"speculative decoding needs a model that generates, which {model.name} does not"
    if run.pipeline_parallel > 1:
        return "speculative decoding and pipeline stages do not go together in the engines: use pp 1"
    found = drafter(settings, model, run)
    if found and not found.model.has_head:
        return f"draft {found.model.name} generates nothing"
    if found and abs(found.model.vocab_size - model.vocab_size) > PADDING:
        return (
            f"draft {found.model.name} has {found.model.vocab_size} tokens in its vocabulary and {model.name} "
            f"{model.vocab_size}: a draft needs the same"
        )
    return ""


def _step(settings: Speculative, step: Step) -> Step:
    return replace(step, decode_tokens=settings.tokens + 1.0)


def _ops(settings: Speculative, model: Model, run: Deployment, step: Step, groups: Groups) -> Groups:
    found = drafter(settings, model, run)
    if found is None:
        return groups
    first = replace(step, decode_tokens=1.0)
    later = Step(decode_seqs=step.decode_seqs, decode_context=step.decode_context)
    ops = (*_passes(found, first, "draft_", 1, 1.0), *_passes(found, later, "draft_later_", settings.tokens - 1, 0.0))
    return (*groups, OpGroup("draft", 1, ops))


def _passes(found: Drafter, step: Step, prefix: str, times: int, weights: float) -> Iterator[Op]:
    """The operations of some passes through the draft; `weights` is 0 where an earlier pass counts them in memory."""
    for group in build(found.model, found.run, step) if times else ():
        own = not (found.shares_ends and group.name not in LAYERS)
        if found.shares_ends and own:
            yield from _joined(found, step, prefix, times, weights)
        for op in group.ops:
            yield replace(
                op,
                name=prefix + op.name,
                count=op.count * group.repeats * times,
                weight_bytes=op.weight_bytes * group.repeats * weights * own,
            )


def _joined(found: Drafter, step: Step, prefix: str, times: int, weights: float) -> Iterator[Op]:
    """Norms of embedding and hidden state, and the product that makes one vector of the two."""
    width = found.model.hidden_size
    yield elementwise.norm(prefix + "input_norms", tokens=step.tokens, width=width, count=2.0 * times)
    product = matmul.gemm(prefix + "input_proj", m=step.tokens, n=width, k=2 * width, count=times)
    yield replace(product, weight_bytes=product.weight_bytes * weights)


def _caches(settings: Speculative, model: Model, run: Deployment) -> tuple[tuple[float, Cache], ...]:
    found = drafter(settings, model, run)
    if found is None:
        return ()
    kept = (
        (float(layer.count), kind(block).cache(block, found.run))
        for layer in found.model.layers
        for block in blocks(layer)
    )
    return tuple((layers, cache) for layers, cache in kept if cache != Cache())


TECHNIQUE = Technique(
    name="speculative",
    title="Speculative decoding",
    source="arXiv:2211.17192, equation 1; arXiv:2412.19437, section 2.2; EAGLE, arXiv:2401.15077",
    settings=Speculative,
    problem=_problem,
    step=_step,
    ops=_ops,
    caches=_caches,
    tokens_per_step=tokens_per_step,
    note="the share of accepted tokens depends on the text and is taken as given",
)

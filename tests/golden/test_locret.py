"""Locret (arXiv:2410.01805): contexts of 128K tokens on one RTX 4090 with 24 GB, by a budget of the cache.

Llama-3.1-8B keeps 131,072 B a token, 17.2 GB at 128K beside 16.1 GB of weights; with an eighth of it 2.1 GB. Phi-3-mini
keeps 393,216 B a token, 51.5 GB beside 7.6 GB; with a twentieth 2.6 GB.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from gemmstone.core.deployment import Deployment
from gemmstone.core.errors import NoAnswer
from gemmstone.graph.memory import kv_bytes_per_token
from gemmstone.graph.parameters import count
from gemmstone.graph.techniques.eviction import Eviction
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, load_model, system
from gemmstone.simulate.schedules import cache_budget

CONTEXT = 131_072

# model with the layers of the paper's, bytes a token, GB of weights, GB of the whole cache, compression, GB of the rest
ROWS = (
    ("llama-3.1-8b", 131_072, 16.1, 17.2, 8, 2.1),
    ("phi-3-mini-128k", 393_216, 7.6, 51.5, 20, 2.6),
)


@pytest.mark.parametrize(("model", "token_bytes", "weights_gb", "full_gb", "ratio", "kept_gb"), ROWS)
def test_bytes(model: str, token_bytes: int, weights_gb: float, full_gb: float, ratio: int, kept_gb: float) -> None:
    loaded = load_model(model)
    assert kv_bytes_per_token(loaded, Deployment(engine="generic")) == token_bytes
    assert 2 * count(loaded).total / 1e9 == pytest.approx(weights_gb, abs=0.06)
    assert CONTEXT * token_bytes / 1e9 == pytest.approx(full_gb, abs=0.06)
    assert CONTEXT * token_bytes / ratio / 1e9 == pytest.approx(kept_gb, abs=0.06)


@pytest.mark.parametrize(("model", "ratio"), [(row[0], row[4]) for row in ROWS])
def test_128k_fits_with_the_budget_and_not_without(model: str, ratio: int) -> None:
    """An engine's own needs included: its context, its graphs, its activations, and what the driver keeps."""

    def holds(*techniques: object) -> bool:
        scenario = Scenario(
            model=model, hardware="rtx-4090", engine="vllm", choice=Choice(techniques=techniques), fidelity="limit"
        )
        try:
            return system(scenario).memory.holds(CONTEXT)
        except NoAnswer:
            return False

    assert not holds()
    assert not holds(Eviction(budget=CONTEXT))
    assert holds(Eviction(budget=CONTEXT // ratio))


# The schedule: chunk by chunk through the prompt, and what is left of it --------------------------------------------------

CHUNK = 3072


@pytest.mark.parametrize(("model", "ratio"), [(row[0], row[4]) for row in ROWS])
def test_the_cache_of_a_prompt_in_chunks_never_exceeds_budget_and_chunk(model: str, ratio: int) -> None:
    budget = CONTEXT // ratio
    found, whole = (cache_budget.prefill(CONTEXT, CHUNK, eviction) for eviction in (Eviction(budget=budget), None))
    assert found.tokens.sum() == whole.tokens.sum() == CONTEXT
    seen = np.minimum(np.cumsum(found.tokens), CONTEXT)
    assert np.array_equal(found.kept, np.minimum(seen, budget))  # held of s tokens: min(s, budget)
    assert found.held.max() == budget + CHUNK
    assert whole.held.max() == whole.kept[-1] == CONTEXT
    assert whole.pairs == CONTEXT * (CONTEXT + 1) // 2
    assert found.pairs < 2.3 * whole.pairs / ratio + CONTEXT * CHUNK
    token_bytes = kv_bytes_per_token(load_model(model), Deployment(engine="generic"))
    weights = 2 * count(load_model(model)).total
    assert weights + found.held.max() * token_bytes < 24e9 < weights + whole.held.max() * token_bytes


# A synthetic task: ten facts among 2,000 tokens. Their keys lean in a direction that questions of this kind lean in, too.
WIDTH, TOKENS, FACTS = 32, 2000, 10
LEANING = np.random.default_rng(7).normal(size=WIDTH)
LEANING /= np.linalg.norm(LEANING)


def text(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, where the facts are, and the attention that 20 questions behind the text pay to each token."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(TOKENS, WIDTH))
    where = np.sort(rng.choice(TOKENS - 200, FACTS, replace=False))
    keys[where] += 3.0 * LEANING
    questions = 0.5 * rng.normal(size=(20, WIDTH)) + 4.0 * LEANING
    weights = np.exp(keys @ questions.T)
    return keys, where, (weights / weights.sum(axis=0)).max(axis=1)


def features(keys: np.ndarray) -> np.ndarray:
    return np.hstack((keys, np.ones((len(keys), 1))))


@cache
def trained_head() -> np.ndarray:
    """A linear head by ridge regression of the log attention that questions pay, on five other texts."""
    texts = [text(seed) for seed in range(5)]
    inputs, paid = np.vstack([features(keys) for keys, _, _ in texts]), np.concatenate([paid for *_, paid in texts])
    return np.linalg.solve(inputs.T @ inputs + 1e-3 * np.eye(WIDTH + 1), inputs.T @ np.log(paid))


def own_attention(keys: np.ndarray) -> np.ndarray:
    """Attention that the tokens of a text pay each other, summed: what H2O goes by."""
    scores = np.where(np.tri(TOKENS, dtype=bool), keys @ keys.T / WIDTH**0.5, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)


@cache
def recall(policy: str, ratio: int = 20) -> float:
    """The share of facts that are still cached behind a text with 1 / ratio of its tokens, over ten texts not trained on."""
    budget, found = TOKENS // ratio, []
    for seed in range(100, 110):
        keys, where, paid = text(seed)
        kept = {
            "first and recent": lambda: cache_budget.recent_and_first(TOKENS, budget),
            "trained": lambda keys=keys: cache_budget.keep(features(keys) @ trained_head(), 256, budget),
            "accumulated": lambda keys=keys: cache_budget.keep(own_attention(keys), 256, budget),
            "oracle": lambda paid=paid: cache_budget.keep(paid, 256, budget),
        }[policy]()
        assert len(kept) == budget
        found.append(np.isin(where, kept).mean())
    return float(np.mean(found))


def test_a_trained_head_keeps_more_than_the_first_and_recent_tokens() -> None:
    """At 20 times less: facts lie anywhere, so that recent tokens hold next to none, and the head sees what will be asked."""
    assert recall("trained") >= recall("first and recent")
    assert recall("trained") > 0.7 > recall("accumulated")
    assert recall("trained", 8) >= recall("trained", 20)
    assert recall("oracle") > 0.7

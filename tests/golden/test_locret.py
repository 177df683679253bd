"""Locret (arXiv:2410.01805): contexts of 128K tokens on one RTX 4090 with 24 GB, by a budget of the cache.

Llama-3.1-8B keeps 131,072 B a token, 17.2 GB at 128K beside 16.1 GB of weights; with an eighth of it 2.1 GB. Phi-3-mini
keeps 393,216 B a token, 51.5 GB beside 7.6 GB; with a twentieth 2.6 GB.
"""

from __future__ import annotations

import pytest

from gemmstone.core.deployment import Deployment
from gemmstone.core.errors import NoAnswer
from gemmstone.graph.memory import kv_bytes_per_token
from gemmstone.graph.parameters import count
from gemmstone.graph.techniques.eviction import Eviction
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, load_model, system

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

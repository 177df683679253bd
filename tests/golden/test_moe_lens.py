"""MoE-Lens (arXiv:2504.09345): the bound of a mixture of experts whose weights stream from host memory."""

from __future__ import annotations

import math

import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.graph.parameters import count, kv_bytes_per_token
from gemmstone.predict.offload import tokens_per_cached_token, weight_streaming_bound
from gemmstone.simulate.scenario import load_model

# The paper's testbed: Mixtral-8x7B of 94 GB in host memory, 70 GB of cache there, 19.5 GB/s to an A40; 98 tokens in, 32 out.
PROMPT, GENERATED = 98, 32
WEIGHT_BYTES, CACHE_BYTES, LINK_BYTES_PER_S = 94e9, 70e9, 19.5e9
KV_BYTES = 2 * 32 * 8 * 128 * 2  # keys and values of 32 layers, 8 heads of 128, in 16 bits


def bound(**changes: float) -> float:
    known = {
        "input_tokens": PROMPT,
        "output_tokens": GENERATED,
        "kv_capacity_tokens": CACHE_BYTES / KV_BYTES,
        "weight_bytes": WEIGHT_BYTES,
        "link_bytes_per_s": LINK_BYTES_PER_S,
    }
    return weight_streaming_bound(**{**known, **changes})


def test_bound_of_the_testbed() -> None:
    # 260 / (228 x 32) = 0.035636 tokens a cached token; 534,058 tokens of cache; 4.82 s a pass. Four digits.
    assert tokens_per_cached_token(PROMPT, GENERATED) == pytest.approx(0.03564, rel=2e-4)
    assert pytest.approx(534e3, rel=2e-4) == CACHE_BYTES / KV_BYTES
    assert pytest.approx(4.82, rel=2e-4) == WEIGHT_BYTES / LINK_BYTES_PER_S
    assert bound() == pytest.approx(3948, rel=2e-4)


def test_the_testbeds_bytes_are_those_of_the_shipped_model() -> None:
    model = load_model("mixtral-8x7b")
    assert kv_bytes_per_token(model, 2.0) == KV_BYTES == 131_072
    # 93.4 GB of parameters; the paper's 94 GB is rounded up, 1%
    assert 2 * count(model).total == pytest.approx(WEIGHT_BYTES, rel=0.01)


@pytest.mark.parametrize(("first", "difference"), [(0, 0.03), (1, -0.004)])
def test_closed_form_against_sums_over_steps(first: int, difference: float) -> None:
    """Counting the cache in g + 1 steps (j = 0 to g, as the paper prints) is 3% away; in the g steps there are, 0.4%."""
    steps = range(0, GENERATED + 1 - first)
    held = sum(PROMPT + j for j in steps)
    exact = (PROMPT + GENERATED) / held
    assert tokens_per_cached_token(PROMPT, GENERATED) / exact - 1 == pytest.approx(difference, abs=0.002)


def test_device_caps_the_bound() -> None:
    assert bound(device_tokens_per_s=1000.0) == 1000.0
    assert bound(device_tokens_per_s=math.inf) == bound()


def test_twice_the_link_or_cache_is_twice_the_bound() -> None:
    assert bound(link_bytes_per_s=2 * LINK_BYTES_PER_S) == pytest.approx(2 * bound())
    assert bound(kv_capacity_tokens=2 * CACHE_BYTES / KV_BYTES) == pytest.approx(2 * bound())


@pytest.mark.parametrize("field", ["input_tokens", "output_tokens", "weight_bytes", "link_bytes_per_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_numbers_no_one_can_mean(field: str, value: float) -> None:
    with pytest.raises(BadRequest, match=field):
        bound(**{field: value})

"""KIVI (arXiv:2402.02750): groups of 32 elements with 16-bit scale and zero, the last 128 tokens in 16 bits.

Claims of its abstract: 2.6 times less peak memory, 4 times the batch, 2.35 to 3.47 times the throughput (Llama-2-7B, A100).
Its own test (mem_spd_test.py of github.com/jy-yuan/KIVI) runs 96 sequences of 160 and 338 tokens.
"""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.errors import BadRequest
from gemmstone.graph.memory import caches
from gemmstone.graph.parameters import count
from gemmstone.graph.techniques.kivi import Kivi, element_bytes
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, load_model, system
from gemmstone.simulate.schedules import cache_budget, few_bits

MODEL = "llama-2-7b"
TOKEN_BYTES = 524_288  # of 16-bit keys and values


def sequence_bytes(tokens: float, *techniques: object) -> float:
    run = Deployment(engine="generic", techniques=techniques)
    return sum(layers * float(cache.bytes(tokens, 2.0)) for layers, cache in caches(load_model(MODEL), run))


def peak_ratio(tokens: float, batch: float) -> float:
    weights = 2.0 * count(load_model(MODEL)).total
    return (weights + batch * sequence_bytes(tokens)) / (weights + batch * sequence_bytes(tokens, Kivi()))


def test_bits_of_an_element() -> None:
    assert 8 * element_bytes(Kivi()) == 3.0
    assert 2.0 / element_bytes(Kivi()) == pytest.approx(5.33, abs=0.005)
    assert 8 * element_bytes(Kivi(bits=4)) == 5.0


def test_bytes_of_a_sequence() -> None:
    assert sequence_bytes(4096) == 4096 * TOKEN_BYTES
    assert sequence_bytes(4096, Kivi()) == (4096 - 128) * TOKEN_BYTES * 3 / 16 + 128 * TOKEN_BYTES


def test_peak_memory() -> None:
    """2.6 times less is reached with long sequences and many of them, not in the paper's own test."""
    assert peak_ratio(4096, 24) >= 2.6 > peak_ratio(4096, 22)
    assert peak_ratio(2048, 64) == pytest.approx(2.75, abs=0.02)
    assert peak_ratio(160 + 338, 96) == pytest.approx(1.65, abs=0.01)


def test_claimed_batch() -> None:
    """Four times the sequences in the same room: from 1664 tokens on, where T / (3 T / 16 + 104) reaches 4."""
    assert sequence_bytes(1664) / sequence_bytes(1664, Kivi()) == pytest.approx(4.0, rel=1e-12)
    assert sequence_bytes(8192) / sequence_bytes(8192, Kivi()) > 4.0 > sequence_bytes(498) / sequence_bytes(498, Kivi())


def test_claimed_throughput_is_what_four_times_the_batch_can_pay() -> None:
    """At the physical bound, four times the batch in KIVI's bytes against a batch in 16 bits, both of 160 + 338 tokens.

    While the weights decide, the gain is near 4; where the larger batch is bound by arithmetic, it is half of that. The
    claimed 2.35 to 3.47 lie between the two, and nothing exceeds the 16 / 3 of the bytes.
    """
    plain, packed = (
        system(
            Scenario(
                model=MODEL,
                hardware="1xa100-sxm-80gb",
                engine="vllm",
                fidelity="limit",
                choice=Choice(techniques=techniques),
            )
        )
        for techniques in ((), (Kivi(),))
    )
    batches = np.array([4.0, 16.0, 48.0, 96.0])
    assert packed.memory.sequences(498) > 4 * 96 > plain.memory.sequences(498) > 96
    plain_s = plain.timer.estimate(Step(decode_seqs=batches, decode_context=498.0)).time_s
    packed_s = packed.timer.estimate(Step(decode_seqs=4 * batches, decode_context=498.0)).time_s
    gains = 4 * plain_s / packed_s
    assert np.all(np.diff(gains) < 0)
    assert gains[-1] < 2.35
    assert 3.47 < gains[0] <= 16 / 3


def test_error_of_a_group_is_at_most_half_a_step_and_keys_want_their_channels() -> None:
    """The rounding that the bytes above pay for, on keys with outlier channels as section 3.1 finds them."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(256, 128))
    keys[:, ::16] *= 20.0

    def rounded(values: np.ndarray) -> np.ndarray:
        groups = values.reshape(-1, 32)
        low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
        scale = (high - low) / 3.0
        back = np.round((groups - low) / scale) * scale + low
        assert np.all(np.abs(back - groups) <= scale / 2 + 1e-12)
        return back.reshape(values.shape)

    by_channel, by_token = rounded(keys.T).T, rounded(keys)
    ordinary = np.arange(128) % 16 != 0
    worse = np.abs(by_token - keys)[:, ordinary].mean() / np.abs(by_channel - keys)[:, ordinary].mean()
    assert worse >= 2.0


# The schedule: tokens wait in 16 bits until a group of them is complete -----------------------------------------------------


def peak_over_life(prompt: int, answer: int, sequences: int) -> float:
    """The most that weights and caches take in 16 bits over the most that they take packed, prompt to last token."""
    weights = 2.0 * count(load_model(MODEL)).total
    wide, narrow = (
        float(cache_budget.growth(prompt, answer, TOKEN_BYTES, settings).max()) for settings in (None, Kivi())
    )
    return (weights + sequences * wide) / (weights + sequences * narrow)


def sequences_for_claim(prompt: int, answer: int) -> int:
    weights = 2.0 * count(load_model(MODEL)).total
    wide, narrow = (cache_budget.growth(prompt, answer, TOKEN_BYTES, settings) for settings in (None, Kivi()))
    return cache_budget.sequences_for(2.6, weights, wide, narrow)


def test_residual_window_token_by_token() -> None:
    """Keys: 128 wide tokens are packed at once; values: the last 128 stay wide."""
    found = cache_budget.packed(np.array([1, 127, 128, 129, 255, 256, 300]), Kivi())
    assert found.wide_keys.tolist() == [1, 127, 0, 1, 127, 0, 44]
    assert found.wide_values.tolist() == [1, 127, 128, 128, 128, 128, 128]
    assert (found.narrow_keys + found.wide_keys).tolist() == (found.narrow_values + found.wide_values).tolist()
    # never more than the whole window wide, which is what the prediction counts
    lengths = np.arange(128, 4096)
    most = np.array([sequence_bytes(float(tokens), Kivi()) for tokens in (128, 1000, 4095)])
    ours = cache_budget.packed_bytes(lengths, TOKEN_BYTES, Kivi())
    assert np.all(ours[[0, 1000 - 128, 4095 - 128]] <= most)
    assert float(cache_budget.packed_bytes(4095, TOKEN_BYTES, Kivi())) == pytest.approx(most[-1], rel=0.001)


def test_claimed_peak_solved_for_the_batch() -> None:
    """2.6 times less at 23 sequences that grow to 4,096 tokens; with 160 + 338 the caches alone hardly differ by as much."""
    assert sequences_for_claim(3584, 512) == 23
    assert peak_over_life(3584, 512, 23) >= 2.6 > peak_over_life(3584, 512, 22)
    assert peak_over_life(160, 338, 96) == pytest.approx(1.65, abs=0.02)
    assert sequences_for_claim(160, 338) > 100_000
    with pytest.raises(BadRequest, match=r"give no 2\.6"):
        sequences_for_claim(100, 338)


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_words_unpack_exactly_and_take_the_bytes_that_are_predicted(bits: int) -> None:
    settings = Kivi(bits=bits)
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 2**bits, (5, 7, 64))
    assert np.array_equal(few_bits.unpack(few_bits.pack(codes, bits), bits), codes)
    values = rng.normal(size=(128, 256)).astype(np.float16).astype(float)
    kept = few_bits.quantized(values, settings)
    assert kept.bytes == values.size * element_bytes(settings)
    back = few_bits.restored(kept, settings)
    # half a step, and what 16 bits of scale and zero leave open over all the steps
    rounding = 2.0**-11 * (2**bits * kept.scale.astype(float) + np.abs(kept.zero.astype(float)))
    error = np.abs(back - values).reshape(128, -1, settings.group).max(axis=-1)
    assert np.all(error <= kept.scale.astype(float) / 2 + rounding)
    # what is on the grid comes back as it was
    assert np.array_equal(few_bits.restored(few_bits.quantized(back, settings), settings), back)


def test_attention_over_packed_keys_and_values() -> None:
    """The window of section 3: keys by channel, values by token, the last 128 as they are; outlier channels by token do worse."""
    rng = np.random.default_rng(6)
    keys, values, query = rng.normal(size=(512, 128)), rng.normal(size=(512, 128)), rng.normal(size=128)
    keys[:, ::16] *= 20.0
    query[::16] /= 20.0

    def rounded(matrix: np.ndarray) -> np.ndarray:
        return few_bits.restored(few_bits.quantized(matrix, Kivi()), Kivi())

    def output(used_keys: np.ndarray) -> np.ndarray:
        used_keys, used_values = np.vstack((used_keys, keys[384:])), np.vstack((rounded(values[:384]), values[384:]))
        weights = np.exp(used_keys @ query / 128**0.5)
        return weights @ used_values / weights.sum()

    weights = np.exp(keys @ query / 128**0.5)
    exact = weights @ values / weights.sum()
    by_channel, by_token = (
        np.abs(output(used) - exact).mean() for used in (rounded(keys[:384].T).T, rounded(keys[:384]))
    )
    assert by_channel < by_token

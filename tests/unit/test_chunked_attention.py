"""Attention that stays within chunks (Llama 4): pairs and reach against counting one by one."""

from __future__ import annotations

import pytest

from gemmstone.core.model import Attention
from gemmstone.graph.blocks import kind
from gemmstone.ops import attention
from gemmstone.simulate.scenario import load_model

SHAPE = {"heads": 2, "kv_heads": 1, "head_dim": 4}


def counted(tokens: int, past: int, chunk: int) -> int:
    """Keys each new position sees: those of its own chunk up to itself."""
    return sum(position % chunk + 1 for position in range(past, past + tokens))


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize(("tokens", "past"), [(0, 5), (1, 0), (5, 0), (8, 0), (9, 7), (20, 11), (16, 8)])
def test_pairs_of_a_prompt(tokens: int, past: int, chunk: int) -> None:
    assert float(attention.chunk_pairs(tokens, past, chunk)) == counted(tokens, past, chunk)


@pytest.mark.parametrize("context", range(1, 20))
def test_reach_of_a_decode_step(context: int) -> None:
    """With `context` tokens there, the last one included, it sees its own chunk."""
    assert float(attention.chunk_reach(context, 8)) == (context - 1) % 8 + 1


def test_within_the_first_chunk_it_is_full_attention() -> None:
    for tokens in (3, 8):
        chunked, full = (
            attention.prefill("x", batch=2, tokens=tokens, **SHAPE, **extra) for extra in ({"chunk": 8.0}, {})
        )
        assert (chunked.flop, chunked.bytes) == (full.flop, full.bytes)
    chunked, full = (attention.decode("x", batch=2, context=8, **SHAPE, **extra) for extra in ({"chunk": 8.0}, {}))
    assert (chunked.flop, chunked.bytes) == (full.flop, full.bytes)


def test_a_prompt_reads_only_what_its_first_chunk_has_already() -> None:
    from_start, later = (attention.prefill("x", batch=1, tokens=4, past=past, chunk=8.0, **SHAPE) for past in (0, 19))
    assert later.read_bytes - from_start.read_bytes == 3 * 2 * 4 * 2  # 19 = 2 x 8 + 3 tokens, keys and values in bf16


def test_half_a_chunk_is_seen_on_average() -> None:
    """Long prompts: (chunk + 1) / 2 keys a query, whatever the length."""
    assert float(attention.chunk_pairs(8192 * 10, 0, 8192)) / (8192 * 10) == (8192 + 1) / 2


def test_llama_4_keeps_at_most_a_chunk_in_three_of_four_layers() -> None:
    model = load_model("llama-4-scout-17b-16e")
    local, everywhere = (layer.mixer for layer in model.layers)
    assert [layer.count for layer in model.layers] == [36, 12]
    assert isinstance(local, Attention)
    assert isinstance(everywhere, Attention)
    assert (local.chunk, local.rotary, everywhere.chunk, everywhere.rotary) == (8192, True, 0, False)
    token = 2 * 8 * 128 * 2
    assert kind(local).cache(local, None).bytes(100_000, 2.0) == 8192 * token
    assert kind(everywhere).cache(everywhere, None).bytes(100_000, 2.0) == 100_000 * token

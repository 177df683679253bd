"""fp32 models: every operation moves four bytes a value; bf16 ones are as they were."""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.catalog import device_files, engine_files
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Attention, DenseMLP, Layer, Model
from gemmstone.graph.build import build
from gemmstone.predict.formats import number_formats

WIDE = dict.fromkeys(
    ("weights", "activations", "attention_weights", "attention_activations", "kv_cache", "model_dtype"), "fp32"
)
LAYER = Layer(
    count=2, mixer=Attention(num_heads=4, num_kv_heads=2, head_dim=16), feed_forward=DenseMLP(intermediate_size=96)
)
SMALL = Model(name="small", family="llama", hidden_size=64, vocab_size=320, dtype="fp32", layers=(LAYER,))
STEPS = (Step(prefill_seqs=2.0, prefill_tokens=8.0), Step(decode_seqs=3.0, decode_context=20.0))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_byte_of_an_fp32_model_is_two_of_a_16_bit_one(step: Step, ranks: int) -> None:
    narrow = build(SMALL, Deployment(engine="generic", tensor_parallel=ranks), step)
    wide = build(SMALL, Deployment(engine="generic", tensor_parallel=ranks, **WIDE), step)
    for thin, fat in zip(narrow, wide, strict=True):
        for one, other in zip(thin.ops, fat.ops, strict=True):
            factor = 1.0 if one.name == "sampling" else 2.0
            assert np.all(np.asarray(other.bytes) == factor * np.asarray(one.bytes)), one.name
            assert np.all(np.asarray(other.wire_bytes) == factor * np.asarray(one.wire_bytes)), one.name
            assert np.all(np.asarray(other.weight_bytes) == factor * np.asarray(one.weight_bytes)), one.name
            assert np.all(np.asarray(other.flop) == np.asarray(one.flop))
            if one.kind not in {"all_reduce", "all_gather"}:
                assert (other.variant, other.dtype) == ("fp32", "fp32") or one.name == "sampling", one.name


def test_weights_in_fp32_make_everything_fp32() -> None:
    engine, card = engine_files.find("generic"), device_files.find("h100-sxm")
    assert set(number_formats(SMALL, card, engine, "fp32").values()) == {"fp32"}
    assert set(number_formats(SMALL, card, engine).values()) == {"bf16"}  # served in 16 bits there


def test_a_checkpoint_in_fp32_stays_so_on_a_processor() -> None:
    engine, processor = engine_files.find("generic"), device_files.find("xeon-8480")
    assert set(number_formats(SMALL, processor, engine).values()) == {"fp32"}
    assert number_formats(SMALL, processor, engine, "bf16")["model_dtype"] == "bf16"
    assert number_formats(SMALL, processor, engine, "int8")["model_dtype"] == "bf16"

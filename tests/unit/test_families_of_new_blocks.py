"""What families of mixed layers make of their keys, by hand on tiny configs, and that alien values are refused by key."""

from __future__ import annotations

from typing import Any

import pytest

from gemmstone.catalog.model_files import ModelFile, find
from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Experts, Model
from gemmstone.graph.blocks.gated_delta import GatedDelta
from gemmstone.graph.blocks.mamba2 import Mamba2
from gemmstone.graph.blocks.rwkv7 import RWKV7Time
from gemmstone.graph.blocks.sparse_latent import SparseLatent
from gemmstone.graph.families import build_model
from gemmstone.graph.families.vision import TOWERS
from gemmstone.graph.parameters import count, mtp_parameters, tower_parameters

H, INNER, VOCAB = 64, 96, 100
PLAIN: dict[str, Any] = {
    "hidden_size": H,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": INNER,
    "vocab_size": VOCAB,
}
ATTENTION = 2 * H * H + 2 * H * 32
NEXT = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
    "num_experts": 0,
}
NEMOTRON = {
    "num_hidden_layers": 5,
    "hybrid_override_pattern": "M-M*E",
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "n_groups": 2,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 48,
}
RWKV = {"head_dim": 16, "decay_low_rank_dim": 3, "a_low_rank_dim": 5, "v_low_rank_dim": 2, "gate_low_rank_dim": 7}
LLAMA4 = {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 128}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "index_topk": 32,
    "index_n_heads": 2,
    "index_head_dim": 8,
}


def built(architecture: str, **changes: Any) -> Model:
    config = {key: value for key, value in {**PLAIN, **changes}.items() if value is not ...}
    return build_model(ModelFile(name="tiny", config={**config, "architectures": [architecture]}, source="t", id="t"))


def windows(model: Model) -> list[tuple[int, int]]:
    return [(layer.count, layer.mixer.window) for layer in model.layers if isinstance(layer.mixer, Attention)]


def test_gpt_oss_by_hand() -> None:
    model = built("GptOssForCausalLM", num_local_experts=4, num_experts_per_tok=2, sliding_window=128)
    attention = ATTENTION + (64 + 2 * 32) + H + 4  # biases on q, k, v and out, a sink a head
    experts = 4 * (3 * H * INNER + 2 * INNER + H) + 4 * H + 4
    assert count(model).total == 8 * (attention + experts + 2 * H) + 2 * VOCAB * H + H
    assert count(model).total - count(model).active == 8 * 2 * (3 * H * INNER + 2 * INNER + H)
    assert windows(model) == [(4, 128), (4, 0)]
    listed = built("GptOssForCausalLM", num_local_experts=4, num_experts_per_tok=2, layer_types=["full_attention"] * 8)
    assert windows(listed) == [(8, 0)]


def test_the_published_gpt_oss_stores_experts_alone_in_four_bits() -> None:
    stored = build_model(find("openai/gpt-oss-120b")).quantization
    assert stored is not None
    assert (stored.weights, stored.activations, stored.experts_only) == ("mxfp4", "", True)


def test_llama_4_routes_every_other_layer_and_is_global_every_fourth() -> None:
    model = built("Llama4ForCausalLM", interleave_moe_layer_step=2, attention_chunk_size=256, **LLAMA4)
    seen = sorted(
        (layer.count, layer.mixer.chunk, isinstance(layer.feed_forward, Experts))
        for layer in model.layers
        if isinstance(layer.mixer, Attention)
    )
    # layers 2, 4, 6, 8 route; 4 and 8 are global
    assert seen == [(2, 0, True), (2, 256, True), (4, 256, False)]
    routed = 4 * 3 * H * INNER + 3 * H * INNER + 4 * H  # four experts, a shared one as wide, the router
    assert count(model).total == 8 * (ATTENTION + 2 * H) + 4 * routed + 4 * 3 * H * 128 + 2 * VOCAB * H + H


def test_qwen3_next_by_hand() -> None:
    model = built("Qwen3NextForCausalLM", **NEXT)
    linear = H * (2 * 16 + 2 * 64) + 64 * H + H * 8 + 4 * 96 + 8 + 16
    full = 3 * H * H + 2 * H * 32 + 2 * 16  # twice the queries, norms of a query and a key head
    assert count(model).total == 6 * linear + 2 * full + 8 * (3 * H * INNER + 2 * H) + 2 * VOCAB * H + H
    assert [type(layer.mixer) for layer in model.layers] == [GatedDelta, Attention]
    assert mtp_parameters(model) == 0


def test_qwen3_next_states_and_prediction() -> None:
    model = built("Qwen3NextForCausalLM", **NEXT, mamba_ssm_dtype="bfloat16", mtp_num_hidden_layers=1)
    assert isinstance(model.layers[0].mixer, GatedDelta)
    assert model.layers[0].mixer.state == "bf16"
    full = 3 * H * H + 2 * H * 32 + 2 * 16
    assert mtp_parameters(model) == full + 3 * H * INNER + 2 * H + 2 * H * H + 3 * H
    assert count(model).total == count(built("Qwen3NextForCausalLM", **NEXT)).total


def test_nemotron_h_by_hand() -> None:
    model = built("NemotronHForCausalLM", **NEMOTRON)
    channels = 64 + 2 * 2 * 8
    mamba = H * (64 + channels + 4) + 64 * H + channels * 5 + 12 + 64
    experts = 8 * 2 * H * 32 + 2 * H * 48 + 8 * H + 8
    layers = 2 * mamba + 2 * H * INNER + ATTENTION + experts + 5 * H
    assert count(model).total == layers + 2 * VOCAB * H + H
    assert [(layer.count, layer.norms) for layer in model.layers] == [(2, 1), (1, 1), (1, 1), (1, 1)]
    mlp = model.layers[1].feed_forward
    assert mlp == DenseMLP(intermediate_size=INNER, gated=False)


def test_rwkv_by_hand() -> None:
    """Appendix F of 2503.14456: 2 D V + 4 D + L D (12 D + 2 (dw + da + dv + dg) + 19) - (2 D dv + D)."""
    model = built("RWKV7ForCausalLM", **RWKV, intermediate_size=4 * H)
    expected = 2 * H * VOCAB + 4 * H + 8 * H * (12 * H + 2 * (3 + 5 + 2 + 7) + 19) - (2 * H * 2 + H)
    assert count(model).total == expected
    assert [(layer.count, layer.mixer.value_rank) for layer in model.layers if isinstance(layer.mixer, RWKV7Time)] == [
        (1, 0),
        (7, 2),
    ]


def test_mamba2_in_both_spellings() -> None:
    theirs = built("MambaLMHeadModel", d_model=64, n_layer=3, vocab_size=97, pad_vocab_size_multiple=4, ssm_cfg={})
    ours = built(
        "Mamba2ForCausalLM",
        num_hidden_layers=3,
        num_heads=2,
        head_dim=64,
        state_size=128,
        n_groups=1,
        vocab_size=100,
        tie_word_embeddings=True,
    )
    assert theirs.layers == ours.layers
    assert isinstance(ours.layers[0].mixer, Mamba2)
    assert count(theirs).total == count(ours).total
    assert theirs.vocab_size == 100


def test_an_indexer_makes_latent_attention_sparse() -> None:
    model = built("DeepseekV32ForCausalLM", **LATENT, num_nextn_predict_layers=2)
    mixer = model.layers[0].mixer
    assert isinstance(mixer, SparseLatent)
    assert (mixer.index_heads, mixer.index_dim, mixer.index_top_k) == (2, 8, 32)
    assert len(model.mtp_layers) == 2
    assert all(layer.mixer == mixer for layer in model.mtp_layers)


def test_bert_and_vit_by_hand() -> None:
    block = 4 * H * H + 4 * H + 2 * H * INNER + INNER + H + 4 * H
    bert = built("BertModel", max_position_embeddings=32, type_vocab_size=2)
    assert count(bert).total == 8 * block + (VOCAB + 34) * H + 2 * H + H * H + H
    vit = built("ViTForImageClassification", image_size=32, patch_size=8, num_labels=7, vocab_size=...)
    # 16 patches of 192 values and a class token: projection with bias, positions, the class, a last norm, the head
    assert count(vit).total == 8 * block + 192 * H + H + 17 * H + H + 2 * H + 7 * H + 7
    assert vit.max_position_embeddings == 17


def test_towers_are_known_by_the_type_of_the_whole() -> None:
    vision = {
        "hidden_size": 32,
        "num_heads": 2,
        "depth": 3,
        "intermediate_size": 48,
        "patch_size": 8,
        "num_position_embeddings": 9,
        "out_hidden_size": H,
        "deepstack_visual_indexes": [1],
    }
    whole = {"model_type": "qwen3_vl", "text_config": {**PLAIN, "model_type": "qwen3_vl_text"}, "vision_config": vision}
    model = build_model(ModelFile(name="tiny", config=whole, source="t", id="t"))
    layer = 4 * 32 * 32 + 4 * 32 + 2 * 32 * 48 + 48 + 32 + 4 * 32
    patches = 3 * 2 * 64 * 32 + 32 + 9 * 32
    mergers = 2 * (128 * 128 + 128 + 128 * H + H) + 2 * 32 + 2 * 128
    assert tower_parameters(model) == 3 * layer + patches + mergers
    assert model.source == "t"
    other = build_model(ModelFile(name="tiny", config={**whole, "model_type": "new_vl"}, source="t", id="t"))
    assert other.tower is None
    assert other.source == "t (text part alone)"
    assert count(other).total == count(model).total


@pytest.mark.parametrize("model_type", TOWERS)
def test_a_tower_needs_its_keys(model_type: str) -> None:
    whole = {"model_type": model_type, "text_config": {**PLAIN, "model_type": "llama"}, "vision_config": {}}
    with pytest.raises(BadRequest, match=r"the config\.json has no '"):
        build_model(ModelFile(name="tiny", config=whole, source="t", id="t"))


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("NemotronHForCausalLM", {**NEMOTRON, "hybrid_override_pattern": "M-M*X"}, r"has to be 5 letters of M\*-E"),
        ("NemotronHForCausalLM", {**NEMOTRON, "hybrid_override_pattern": "M-M"}, "has to be 5 letters"),
        ("NemotronHForCausalLM", {**NEMOTRON, "moe_latent_size": 16}, "'moe_latent_size'"),
        ("NemotronHForCausalLM", {**NEMOTRON, "n_groups": 3}, "multiple of n_groups"),
        ("Qwen3NextForCausalLM", {**NEXT, "layer_types": ["linear_attention"]}, "list of 8 of linear_attention"),
        ("Qwen3NextForCausalLM", {**NEXT, "linear_num_key_heads": 3}, "multiple of linear_num_key_heads"),
        ("Qwen3NextForCausalLM", {**NEXT, "mamba_ssm_dtype": "fp9"}, "fp9"),
        ("Llama4ForCausalLM", {**LLAMA4, "no_rope_layers": [1, 0]}, "list of 8 zeros and ones"),
        ("SmallThinkerForCausalLM", {"rope_layout": [2] * 8, **LLAMA4}, "moe_num_primary_experts"),
        ("RWKV7ForCausalLM", {**RWKV, "head_dim": 60}, "multiple of head_dim"),
        ("Mamba2ForCausalLM", {"num_heads": 3}, "num_heads x head_dim in the config.json is 48, not 2 x hidden_size"),
        ("DeepseekV32ForCausalLM", {**LATENT, "q_lora_rank": 0}, "give a q_lora_rank"),
        ("DeepseekV32ForCausalLM", {**LATENT, "num_nextn_predict_layers": 10**9}, "num_nextn_predict_layers"),
        ("ViTForImageClassification", {"image_size": 100, "patch_size": 16}, "multiple of patch_size"),
        ("BertModel", {"num_attention_heads": 5}, "multiple of num_attention_heads"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(architecture: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        built(architecture, **changes)

"""What single families make of their keys: norms, windows, parallel blocks, biases and spellings, by hand on tiny configs."""

from __future__ import annotations

from typing import Any

import pytest

from gemmstone.catalog.model_files import ModelFile, find
from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Experts, Model
from gemmstone.graph.build import build
from gemmstone.graph.families import build_model
from gemmstone.graph.gemm_table import gemm_table
from gemmstone.graph.parameters import count

H, LAYERS, HEADS, INNER, VOCAB = 64, 4, 4, 96, 100
PLAIN: dict[str, Any] = {
    "hidden_size": H,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "intermediate_size": INNER,
    "vocab_size": VOCAB,
}
GPT2_WORDS: dict[str, Any] = {"n_embd": H, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 32, "vocab_size": VOCAB}
ATTENTION = 2 * H * H + 2 * H * 32  # q, o and, with two heads of 16, k and v
ALL_HEADS = 4 * H * H
GATED, UNGATED = 3 * H * INNER, 2 * H * INNER
TABLE = VOCAB * H


def built(architecture: str, config: dict[str, Any] | None = None, **changes: Any) -> Model:
    whole = {**(PLAIN if config is None else config), **changes, "architectures": [architecture]}
    kept = {key: value for key, value in whole.items() if value is not ...}
    return build_model(ModelFile(name="tiny", config=kept, source="test", id="tiny"))


def mixers(model: Model) -> list[tuple[int, Attention]]:
    return [(layer.count, layer.mixer) for layer in model.layers if isinstance(layer.mixer, Attention)]


def total(architecture: str, config: dict[str, Any] | None = None, **changes: Any) -> int:
    return count(built(architecture, config, **changes)).total


def test_gptj_has_one_norm_and_biases_on_mlp_and_head() -> None:
    layer = ALL_HEADS + 8 * H * H + 4 * H + H + 2 * H
    assert total("GPTJForCausalLM", GPT2_WORDS) == LAYERS * layer + 2 * TABLE + VOCAB + 2 * H


def test_gpt_neox_has_biases_everywhere_but_on_the_head() -> None:
    layer = ALL_HEADS + 4 * H + UNGATED + INNER + H + 4 * H
    neox = {**PLAIN, "num_key_value_heads": ...}
    assert total("GPTNeoXForCausalLM", neox) == LAYERS * layer + 2 * TABLE + 2 * H
    assert total("GPTNeoXForCausalLM", neox) - total("GPTNeoXForCausalLM", neox, attention_bias=False) == LAYERS * 4 * H


GPT_NEO = {
    "hidden_size": H,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "max_position_embeddings": 32,
    "vocab_size": VOCAB,
}


def test_gpt_neo_alternates_and_has_no_biases_on_q_k_v() -> None:
    model = built("GPTNeoForCausalLM", GPT_NEO)
    assert [(layers, mixer.window) for layers, mixer in mixers(model)] == [(2, 0), (2, 256)]
    layer = ALL_HEADS + H + 8 * H * H + 5 * H + 4 * H
    assert count(model).total == LAYERS * layer + TABLE + 32 * H + 2 * H
    listed = built("GPTNeoForCausalLM", GPT_NEO, attention_types=[[["global"], 1], [["local", "local", "local"], 1]])
    assert [(layers, mixer.window) for layers, mixer in mixers(listed)] == [(1, 0), (3, 256)]
    for types in (
        [[["global"], 3]],
        [[["global"], 5]],
        [[["sparse"], 4]],
        ["global"] * 4,
        "global",
        [[["global"], True]],
    ):
        with pytest.raises(BadRequest, match="'attention_types'"):
            built("GPTNeoForCausalLM", GPT_NEO, attention_types=types)


def test_smollm3_turns_three_layers_of_four() -> None:
    assert [(layers, mixer.rotary) for layers, mixer in mixers(built("SmolLM3ForCausalLM"))] == [(3, True), (1, False)]
    listed = built("SmolLM3ForCausalLM", no_rope_layers=[1, 0, 1, 0])
    assert [(layers, mixer.rotary) for layers, mixer in mixers(listed)] == [(2, True), (2, False)]
    assert count(listed).total == total("LlamaForCausalLM", tie_word_embeddings=True)
    with pytest.raises(BadRequest, match="'no_rope_layers'"):
        built("SmolLM3ForCausalLM", no_rope_layers=[1, 0])


@pytest.mark.parametrize(
    ("architecture", "config", "parallel"),
    [
        ("GPTJForCausalLM", GPT2_WORDS, True),
        ("GPTNeoXForCausalLM", PLAIN, True),
        ("GPTNeoXForCausalLM", {**PLAIN, "use_parallel_residual": False}, False),
        ("FalconForCausalLM", PLAIN, True),
        ("FalconForCausalLM", {**PLAIN, "parallel_attn": False}, False),
        ("FalconForCausalLM", {**PLAIN, "parallel_attn": False, "new_decoder_architecture": True}, True),
        ("PhiForCausalLM", PLAIN, True),
        ("StableLmForCausalLM", PLAIN, False),
        ("StableLmForCausalLM", {**PLAIN, "use_parallel_residual": True}, True),
        ("CohereForCausalLM", PLAIN, True),
        ("BloomForCausalLM", {**PLAIN, "n_head": HEADS, "n_layer": LAYERS}, False),
    ],
)
def test_parallel_blocks_are_joined_by_one_sum_over_tensor_ranks(
    architecture: str, config: dict[str, Any], parallel: bool
) -> None:
    model = built(architecture, config)
    groups = build(model, Deployment(engine="generic", tensor_parallel=2), Step(decode_seqs=1.0, decode_context=8.0))
    names = [op.name for group in groups for op in group.ops if group.name == "layers"]
    assert sum(name.endswith("all_reduce") for name in names) == (1 if parallel else 2)


def test_bloom_norms_its_embedding_and_turns_nothing() -> None:
    words = {"n_embed": H, "n_layer": LAYERS, "num_attention_heads": HEADS, "vocab_size": VOCAB}
    model = built("BloomForCausalLM", words)
    assert (model.embedding_norm, model.tied_embeddings, mixers(model)[0][1].rotary) == (True, True, False)
    layer = ALL_HEADS + 4 * H + 8 * H * H + 5 * H + 4 * H
    assert count(model).total == LAYERS * layer + TABLE + 2 * 2 * H
    respelled = {"hidden_size": H, "num_hidden_layers": LAYERS, "n_head": HEADS, "vocab_size": VOCAB}
    assert built("BloomForCausalLM", respelled) == model


@pytest.mark.parametrize(
    ("changes", "kv_heads", "norms"),
    [
        ({}, 1, 1),
        ({"multi_query": False}, 4, 1),
        ({"multi_query": False, "parallel_attn": False}, 4, 2),
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, 2, 2),
        ({"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}, 2, 1),
    ],
)
def test_falcons(changes: dict[str, Any], kv_heads: int, norms: int) -> None:
    model = built("FalconForCausalLM", **changes)
    assert (mixers(model)[0][1].num_kv_heads, model.layers[0].norms) == (kv_heads, norms)


def test_alibi_has_no_rotary_operation() -> None:
    for changes, expected in (({}, True), ({"alibi": True}, False)):
        groups = build(
            built("FalconForCausalLM", **changes),
            Deployment(engine="generic"),
            Step(decode_seqs=1.0, decode_context=8.0),
        )
        assert ("rotary" in {op.name for group in groups for op in group.ops}) is expected


def test_gemma2_alternates_and_norms_before_and_after() -> None:
    model = built("Gemma2ForCausalLM", head_dim=16, sliding_window=8, num_hidden_layers=5)
    assert [(layers, mixer.window) for layers, mixer in mixers(model)] == [(3, 8), (2, 0)]
    assert count(model).total == 5 * (ATTENTION + GATED + 4 * H) + TABLE + H


def test_gemma3_has_five_local_layers_to_a_global_one() -> None:
    model = built("Gemma3ForCausalLM", head_dim=16, sliding_window=8, num_hidden_layers=13)
    assert [(layers, mixer.window) for layers, mixer in mixers(model)] == [(11, 8), (2, 0)]
    assert count(model).total == 13 * (ATTENTION + 2 * 16 + GATED + 4 * H) + TABLE + H
    listed = ["sliding_attention", "full_attention"] * 2
    model = built("Gemma3ForCausalLM", head_dim=16, sliding_window=8, layer_types=listed)
    assert [(layers, mixer.window) for layers, mixer in mixers(model)] == [(2, 8), (2, 0)]


@pytest.mark.parametrize("listed", [["full_attention"], "full_attention", [1, 2, 3, 4], ["linear_attention"] * 4])
def test_layer_types_are_words_one_a_layer(listed: object) -> None:
    with pytest.raises(BadRequest, match="'layer_types'"):
        built("Gemma3ForCausalLM", layer_types=listed)


def test_a_silent_gemma3_text_part_means_the_defaults_of_its_family() -> None:
    """gemma-3-4b leaves its heads out: 8 and 4 of 256 (transformers models/gemma3)."""
    config = {"text_config": {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 6}}
    config["text_config"] |= {"intermediate_size": 96, "sliding_window": 1024}
    model = build_model(ModelFile(name="tiny", config=config, source="test", id="tiny"))
    mixer = mixers(model)[0][1]
    assert (mixer.num_heads, mixer.num_kv_heads, mixer.head_dim, model.vocab_size) == (8, 4, 256, 262_208)


def test_phi_norms_single_heads_on_request() -> None:
    layer = ATTENTION + (2 * H + 2 * 32) + UNGATED + INNER + H + 2 * H
    plain = total("PhiForCausalLM")
    assert plain == LAYERS * layer + 2 * TABLE + VOCAB + 2 * H
    assert total("PhiForCausalLM", qk_layernorm=True) - plain == LAYERS * 2 * 2 * 16


def test_phimoe_has_layernorms_and_a_bias_on_the_head() -> None:
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2}
    layer = ATTENTION + 8 * GATED + 8 * H + 4 * H
    assert total("PhiMoEForCausalLM", **experts) == LAYERS * layer + 2 * TABLE + 2 * H
    biased = total("PhiMoEForCausalLM", **experts, lm_head_bias=True, attention_bias=True)
    assert biased - total("PhiMoEForCausalLM", **experts) == VOCAB + LAYERS * (2 * H + 2 * 32)


MOSAIC: dict[str, Any] = {"d_model": H, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": 32, "vocab_size": VOCAB}


def test_dbrx_reads_its_inner_objects() -> None:
    inner = {"ffn_hidden_size": INNER, "moe_num_experts": 8, "moe_top_k": 2}
    layer = ATTENTION + 8 * GATED + 8 * H + 2 * H
    whole = {**MOSAIC, "attn_config": {"kv_n_heads": 2}, "ffn_config": inner}
    assert total("DbrxForCausalLM", whole) == LAYERS * layer + 2 * TABLE + H
    with pytest.raises(BadRequest, match="'moe_num_experts'"):
        built("DbrxForCausalLM", {**MOSAIC, "attn_config": {"kv_n_heads": 2}})
    with pytest.raises(BadRequest, match="'attn_config'"):
        built("DbrxForCausalLM", {**MOSAIC, "attn_config": 2, "ffn_config": inner})


def test_mpt_learns_positions_only_without_slopes() -> None:
    layer = ALL_HEADS + 8 * H * H + 2 * H
    sloped = {**MOSAIC, "attn_config": {"alibi": True}}
    assert total("MPTForCausalLM", sloped) == LAYERS * layer + TABLE + H
    assert total("MPTForCausalLM", MOSAIC) - total("MPTForCausalLM", sloped) == 32 * H
    biased = LAYERS * (4 * H + 5 * H + 2 * H) + H
    assert total("MPTForCausalLM", sloped, no_bias=False) - total("MPTForCausalLM", sloped) == biased


def test_stablelm_flags() -> None:
    plain = total("StableLmForCausalLM")
    assert plain == LAYERS * (ATTENTION + GATED + 4 * H) + 2 * TABLE + 2 * H
    assert total("StableLmForCausalLM", use_qkv_bias=True) - plain == LAYERS * (H + 2 * 32)
    assert total("StableLmForCausalLM", qk_layernorm=True) - plain == LAYERS * (H + 32)
    assert plain - total("StableLmForCausalLM", use_parallel_residual=True) == LAYERS * 2 * H


def test_olmos() -> None:
    matrices = LAYERS * (ATTENTION + GATED) + 2 * TABLE
    assert total("OlmoForCausalLM") == matrices
    assert total("Olmo2ForCausalLM") == matrices + LAYERS * (2 * H + H + 32) + H
    windows = [(layers, mixer.window) for layers, mixer in mixers(built("Olmo3ForCausalLM", sliding_window=8))]
    assert windows == [(3, 8), (1, 0)]
    routed = total("OlmoeForCausalLM", num_experts=8, num_experts_per_tok=2)
    assert routed - total("Olmo2ForCausalLM") == LAYERS * (7 * GATED + 8 * H)


def test_command_r7b_turns_only_its_local_layers() -> None:
    model = built("Cohere2ForCausalLM", sliding_window=8)
    assert [(layers, mixer.window, mixer.rotary) for layers, mixer in mixers(model)] == [(3, 8, True), (1, 0, False)]
    assert count(model).total == LAYERS * (ATTENTION + GATED + H) + TABLE + H
    normed = total("CohereForCausalLM", use_qk_norm=True) - total("CohereForCausalLM")
    assert normed == LAYERS * (H + 32)


def test_starcoder2_has_biases_on_every_matrix() -> None:
    bias = total("Starcoder2ForCausalLM") - total("Starcoder2ForCausalLM", use_bias=False)
    assert bias == LAYERS * (2 * H + 2 * 32 + INNER + H)


def test_starcoder_shares_one_head() -> None:
    assert mixers(built("GPTBigCodeForCausalLM", GPT2_WORDS))[0][1].num_kv_heads == 1
    assert mixers(built("GPTBigCodeForCausalLM", GPT2_WORDS, multi_query=False))[0][1].num_kv_heads == HEADS


def test_nemotron_has_a_plain_mlp_under_layernorm() -> None:
    assert total("NemotronForCausalLM") == LAYERS * (ATTENTION + UNGATED + 4 * H) + 2 * TABLE + 2 * H


CHATGLM = {"hidden_size": H, "num_layers": LAYERS, "num_attention_heads": HEADS, "kv_channels": 16}
CHATGLM |= {"ffn_hidden_size": INNER, "padded_vocab_size": VOCAB}


def test_chatglm_in_its_own_spelling() -> None:
    grouped = {**CHATGLM, "multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True}
    layer = ATTENTION + H + 2 * 32 + GATED + 2 * H
    assert total("ChatGLMModel", grouped) == LAYERS * layer + 2 * TABLE + H
    assert mixers(built("ChatGLMModel", CHATGLM))[0][1].num_kv_heads == HEADS
    assert total("GEBForCausalLM", {**CHATGLM, "num_key_value_heads": 2}) == LAYERS * (layer - H - 64) + 2 * TABLE + H


def test_glm4_norms_before_and_after_where_glm_norms_before() -> None:
    words = {**PLAIN, "head_dim": 16}
    assert total("Glm4ForCausalLM", words) - total("GlmForCausalLM", words) == LAYERS * 2 * H
    assert total("GlmForCausalLM", words) - total("GlmForCausalLM", words, attention_bias=False) == LAYERS * 128


def test_glm_mixtures_start_dense() -> None:
    words = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1}
    model = built("Glm4MoeForCausalLM", **words, first_k_dense_replace=1, use_qk_norm=True)
    assert [(layer.count, type(layer.feed_forward)) for layer in model.layers] == [(1, DenseMLP), (3, Experts)]
    routed = 9 * 3 * H * 32 + 8 * H + 8
    layers = GATED + 3 * routed + LAYERS * (ATTENTION + 2 * 16 + 2 * H)
    assert count(model).total == layers + 2 * TABLE + H


def test_granite_mixtures_route_in_every_layer() -> None:
    layer = ATTENTION + 8 * GATED + 8 * H + 2 * H
    assert total("GraniteMoeForCausalLM", num_local_experts=8, num_experts_per_tok=2) == LAYERS * layer + 2 * TABLE + H


def test_exaones() -> None:
    words = {**{key: value for key, value in PLAIN.items() if key != "num_hidden_layers"}, "num_layers": LAYERS}
    assert total("ExaoneForCausalLM", words) == total("LlamaForCausalLM")
    model = built("Exaone4ForCausalLM", sliding_window=8, sliding_window_pattern="LLLG")
    assert [(layers, mixer.window, mixer.rotary) for layers, mixer in mixers(model)] == [(3, 8, True), (1, 0, False)]
    assert count(model).total == total("LlamaForCausalLM") + LAYERS * 2 * 16
    everywhere = mixers(built("Exaone4ForCausalLM", sliding_window=None, sliding_window_pattern=None))
    assert [(layers, mixer.window, mixer.rotary) for layers, mixer in everywhere] == [(4, 0, True)]
    for pattern in ("LGLG", "GGG", "LLL", "LLLX", 3.5):
        with pytest.raises(BadRequest, match="'sliding_window_pattern'"):
            built("Exaone4ForCausalLM", sliding_window=8, sliding_window_pattern=pattern)


def test_hunyuan_counts_may_be_written_once_a_layer() -> None:
    once = {"num_experts": 8, "moe_topk": 2, "num_shared_expert": 1, "moe_intermediate_size": 32}
    each = {"num_experts": 8, "moe_topk": [2] * 4, "num_shared_expert": [1] * 4, "moe_intermediate_size": [32] * 4}
    assert built("HunYuanMoEV1ForCausalLM", **once) == built("HunYuanMoEV1ForCausalLM", **each)
    layer = ATTENTION + 2 * 16 + 9 * 3 * H * 32 + 8 * H + 2 * H
    assert total("HunYuanMoEV1ForCausalLM", **once) == LAYERS * layer + 2 * TABLE + H
    with pytest.raises(BadRequest, match="'moe_topk'"):
        built("HunYuanMoEV1ForCausalLM", **{**each, "moe_topk": [1, 2, 2, 2]})


def test_arctic_counts_its_dense_mlp_beside_the_experts() -> None:
    words = {"num_local_experts": 8, "num_experts_per_tok": 2, "parallel_attn_mlp_res": True}
    layer = ATTENTION + 8 * GATED + 3 * H * H + 8 * H + 3 * H
    assert total("ArcticForCausalLM", **words) == LAYERS * layer + 2 * TABLE + H
    assert [layer.count for layer in built("ArcticForCausalLM", **words, moe_layer_frequency=2).layers] == [2, 2]


def test_ernie_routes_within_a_range() -> None:
    words = {"moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 2}
    model = built("Ernie4_5_MoeForCausalLM", **words, moe_layer_start_index=1, moe_layer_end_index=2)
    assert [(layer.count, type(layer.feed_forward)) for layer in model.layers] == [(2, DenseMLP), (2, Experts)]
    assert total("Ernie4_5ForCausalLM", head_dim=16) == total("LlamaForCausalLM", tie_word_embeddings=True)


def test_cousins_of_llama() -> None:
    llama = total("LlamaForCausalLM")
    assert total("GraniteForCausalLM") == total("InternLM2ForCausalLM") == llama
    assert total("InternLM3ForCausalLM", qkv_bias=True) - llama == LAYERS * (H + 2 * 32)
    assert total("SeedOssForCausalLM", head_dim=16) - llama == LAYERS * (H + 2 * 32)
    wide = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": ...}
    assert mixers(built("BaichuanForCausalLM", **wide))[0][1].rotary
    assert not mixers(built("BaichuanForCausalLM", **{**wide, "hidden_size": 5120}))[0][1].rotary


BLOCK = {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 2.0}}


def test_searched_llamas_lack_blocks() -> None:
    """Widths are rounded up to 256: int(2 x 2.0 x 64 / 3) = 85 becomes 256."""
    empty = {"attention": {"no_op": True}, "ffn": {"ffn_mult": 6.0}}
    alone = {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}}
    model = built("DeciLMForCausalLM", block_configs=[BLOCK, BLOCK, empty, alone])
    attention = 2 * (2 * H * H + 2 * H * 32) + 2 * H * H + 2 * H * 16
    assert count(model).total == attention + 3 * 3 * H * 256 + 6 * H + 2 * TABLE + H
    names = {
        op.name
        for group in build(model, Deployment(engine="generic"), Step(prefill_tokens=4.0, prefill_seqs=1.0))
        for op in group.ops
    }
    assert {"qkv_proj", "gate_up_proj"} <= names


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ([BLOCK], "list of 4"),
        ("all", "list of 4"),
        ([BLOCK] * 3 + [3], "list of 4"),
        ([{"attention": {"no_op": True}, "ffn": {"no_op": True}}] * 4, "neither"),
        ([{**BLOCK, "attention": {"replace_with_linear": True}}] * 4, "'replace_with_linear'"),
        ([{**BLOCK, "attention": {"n_heads_in_group": 3}}] * 4, "n_heads_in_group"),
        ([{**BLOCK, "ffn": {}}] * 4, "'ffn_mult'"),
        ([{**BLOCK, "ffn": {"ffn_mult": float("nan")}}] * 4, "'ffn_mult'"),
        ([{**BLOCK, "ffn": {"ffn_mult": 1e300}}] * 4, "'ffn_mult'"),
    ],
)
def test_damaged_block_configs_are_refused(blocks: object, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        built("DeciLMForCausalLM", block_configs=blocks)


@pytest.mark.parametrize(
    "name",
    ["gpt-j-6b", "bloom", "falcon-40b", "gemma-2-9b", "phi-2", "dbrx", "stablelm-2-12b", "c4ai-command-r7b-12-2024"],
)
def test_the_table_of_products_has_the_matrices_of_the_stack(name: str) -> None:
    """Multiply-adds of one token outside attention are the elements of the matrices that it meets, the head's with them."""
    model = build_model(find(name))
    rows = [row for row in gemm_table(model, 1) if row.name not in ("Q K^T", "QK V", "embedding")]
    derived = count(model)
    outside = derived.embedding if not model.tied_embeddings else 0
    assert sum(row.computed_macs for row in rows) == pytest.approx(derived.active - outside, rel=2e-3)


@pytest.mark.parametrize(
    ("asked", "short"),
    [
        ("mistralai/Mistral-Small-24B-Instruct-2501", "mistral-small-24b"),
        ("mistralai/Mistral-Small-Instruct-2409", "mistral-small"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo"),
        ("mistralai/Mistral-Large-Instruct-2411", "mistral-large"),
        ("mistralai/Devstral-Small-2505", "devstral-small"),
        ("allenai/OLMo-2-1124-13B-Instruct", "olmo-2-13b"),
        ("allenai/OLMo-2-0325-32B", "olmo-2-32b"),
        ("ibm-granite/granite-3.1-8b-instruct", "granite-3.1-8b"),
        ("google/gemma-2-27b-it", "gemma-2-27b"),
        ("google/gemma-3-12b-it", "gemma-3-12b"),
        ("microsoft/Phi-3-medium-4k-instruct", "phi-3-medium-4k"),
        ("microsoft/Phi-3.5-mini-instruct", "phi-3-mini-128k"),
        ("microsoft/phi-4", "phi-4"),
        ("stabilityai/stable-code-instruct-3b", "stable-code-3b"),
        ("mosaicml/mpt-30b-chat", "mpt-30b"),
        ("tiiuae/falcon-180B-chat", "falcon-180b"),
        ("EleutherAI/gpt-j-6B", "gpt-j-6b"),
        ("bigscience/bloomz", "bloom"),
        ("databricks/dbrx-instruct", "dbrx"),
        ("zai-org/GLM-4.5-FP8", "glm-4.5"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b"),
        ("Qwen/Qwen1.5-72B-Chat", "qwen1.5-72b"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "qwen2.5-32b"),
        ("facebook/opt-2.7b", "opt-2.7b"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b-chat-v1.0"),
    ],
)
def test_names_people_use(asked: str, short: str) -> None:
    assert find(asked).name == short

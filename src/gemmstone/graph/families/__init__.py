"""Model families: from a config.json to core.model.Model. One file an architecture group, one row an architecture."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from gemmstone.catalog.model_files import ModelFile
from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import nearest
from gemmstone.core.model import Experts, Model
from gemmstone.graph.families import (
    arctic,
    bloom,
    cohere,
    dbrx,
    decilm,
    deepseek,
    encoders,
    ernie,
    exaone,
    falcon,
    geb,
    gemma,
    glm,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    hgrn_bit,
    hunyuan,
    llama,
    llama4,
    mamba2,
    mimo,
    minimax,
    mixtral,
    mpt,
    nemotron,
    nemotron_h,
    olmo,
    opt,
    phi,
    qwen_moe,
    qwen_next,
    rwkv,
    smallthinker,
    stablelm,
    starcoder2,
    vision,
)
from gemmstone.graph.families.fields import Config, flag, integer, number_format, shown, word
from gemmstone.graph.families.quantization import quantization

# Architecture class -> function (config) -> the fields of Model that the family knows.
FAMILIES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "LlamaForCausalLM": llama.llama,
    "LLaMAForCausalLM": llama.llama,
    "YiForCausalLM": llama.llama,
    "MistralForCausalLM": llama.mistral,
    "Phi3ForCausalLM": llama.phi3,
    "Qwen2ForCausalLM": llama.qwen2,
    "Qwen2_5_VLForConditionalGeneration": llama.qwen2,
    "Qwen3ForCausalLM": llama.qwen3,
    "DeciLMForCausalLM": decilm.decilm,
    "GPT2LMHeadModel": gpt2.gpt2,
    "OPTForCausalLM": opt.opt,
    "MixtralForCausalLM": mixtral.mixtral,
    "Qwen2MoeForCausalLM": qwen_moe.qwen2_moe,
    "Qwen3MoeForCausalLM": qwen_moe.qwen3_moe,
    "MiniMaxM2ForCausalLM": minimax.minimax_m2,
    "DeepseekV2ForCausalLM": deepseek.deepseek,
    "DeepseekV3ForCausalLM": deepseek.deepseek,
    "GPTJForCausalLM": gptj.gptj,
    "CodeGenForCausalLM": gptj.gptj,
    "GPTNeoForCausalLM": gpt_neo.gpt_neo,
    "GPTNeoXForCausalLM": gpt_neox.gpt_neox,
    "GPTBigCodeForCausalLM": gpt_bigcode.gpt_bigcode,
    "BloomForCausalLM": bloom.bloom,
    "FalconForCausalLM": falcon.falcon,
    "GemmaForCausalLM": gemma.gemma,
    "Gemma2ForCausalLM": gemma.gemma2,
    "Gemma3ForCausalLM": gemma.gemma3,
    "PhiForCausalLM": phi.phi,
    "PhiMoEForCausalLM": phi.phimoe,
    "DbrxForCausalLM": dbrx.dbrx,
    "MPTForCausalLM": mpt.mpt,
    "StableLmForCausalLM": stablelm.stablelm,
    "OlmoForCausalLM": olmo.olmo,
    "Olmo2ForCausalLM": olmo.olmo2,
    "Olmo3ForCausalLM": olmo.olmo3,
    "OlmoeForCausalLM": olmo.olmoe,
    "CohereForCausalLM": cohere.cohere,
    "Cohere2ForCausalLM": cohere.cohere2,
    "Starcoder2ForCausalLM": starcoder2.starcoder2,
    "NemotronForCausalLM": nemotron.nemotron,
    "ChatGLMModel": glm.chatglm,
    "ChatGLMForConditionalGeneration": glm.chatglm,
    "GEBForCausalLM": geb.geb,
    "GlmForCausalLM": glm.glm,
    "Glm4ForCausalLM": glm.glm4,
    "Glm4MoeForCausalLM": glm.glm4_moe,
    "GraniteForCausalLM": llama.llama,
    "GraniteMoeForCausalLM": granite.granite_moe,
    "ExaoneForCausalLM": exaone.exaone,
    "Exaone4ForCausalLM": exaone.exaone4,
    "InternLM2ForCausalLM": llama.internlm2,
    "InternLM3ForCausalLM": llama.internlm2,
    "BaichuanForCausalLM": llama.baichuan,
    "BaiChuanForCausalLM": llama.baichuan,
    "SeedOssForCausalLM": llama.seed_oss,
    "SmolLM3ForCausalLM": llama.smollm3,
    "Ernie4_5ForCausalLM": llama.ernie,
    "Ernie4_5_MoeForCausalLM": ernie.ernie_moe,
    "HunYuanDenseV1ForCausalLM": hunyuan.hunyuan_dense,
    "HunYuanMoEV1ForCausalLM": hunyuan.hunyuan_moe,
    "ArcticForCausalLM": arctic.arctic,
    "DeepseekV32ForCausalLM": deepseek.deepseek,
    "GlmMoeDsaForCausalLM": deepseek.deepseek,
    "GptOssForCausalLM": gpt_oss.gpt_oss,
    "Llama4ForCausalLM": llama4.llama4,
    "MiMoForCausalLM": mimo.mimo,
    "Qwen3NextForCausalLM": qwen_next.qwen3_next,
    "NemotronHForCausalLM": nemotron_h.nemotron_h,
    "Mamba2ForCausalLM": mamba2.mamba2,
    "MambaLMHeadModel": mamba2.state_spaces,
    "RWKV7ForCausalLM": rwkv.rwkv7,
    "HGRNBitForCausalLM": hgrn_bit.hgrn_bit,
    "SmallThinkerForCausalLM": smallthinker.smallthinker,
    "BertModel": encoders.bert,
    "BertForMaskedLM": encoders.bert,
    "RobertaModel": encoders.bert,
    "RobertaForMaskedLM": encoders.bert,
    "XLMRobertaModel": encoders.bert,
    "ViTForImageClassification": encoders.vit,
}
# A config without `architectures` (text parts of multimodal models, hand-written ones) is known by its model_type.
MODEL_TYPES: dict[str, str] = {
    "llama": "LlamaForCausalLM",
    "yi": "YiForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen2_5_vl_text": "Qwen2_5_VLForConditionalGeneration",
    "qwen3": "Qwen3ForCausalLM",
    "deci": "DeciLMForCausalLM",
    "nemotron-nas": "DeciLMForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "opt": "OPTForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "minimax_m2": "MiniMaxM2ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "kimi_k2": "DeepseekV3ForCausalLM",
    "gptj": "GPTJForCausalLM",
    "codegen": "CodeGenForCausalLM",
    "gpt_neo": "GPTNeoForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "gpt_bigcode": "GPTBigCodeForCausalLM",
    "bloom": "BloomForCausalLM",
    "falcon": "FalconForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi": "PhiForCausalLM",
    "phimoe": "PhiMoEForCausalLM",
    "dbrx": "DbrxForCausalLM",
    "mpt": "MPTForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "olmo": "OlmoForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
    "nemotron": "NemotronForCausalLM",
    "chatglm": "ChatGLMModel",
    "geblm": "GEBForCausalLM",
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "granite": "GraniteForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
    "exaone": "ExaoneForCausalLM",
    "exaone4": "Exaone4ForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
    "baichuan": "BaichuanForCausalLM",
    "seed_oss": "SeedOssForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "ernie4_5": "Ernie4_5ForCausalLM",
    "ernie4_5_moe": "Ernie4_5_MoeForCausalLM",
    "hunyuan_v1_dense": "HunYuanDenseV1ForCausalLM",
    "hunyuan_v1_moe": "HunYuanMoEV1ForCausalLM",
    "arctic": "ArcticForCausalLM",
    "deepseek_v32": "DeepseekV32ForCausalLM",
    "glm_moe_dsa": "GlmMoeDsaForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "llama4_text": "Llama4ForCausalLM",
    "mimo": "MiMoForCausalLM",
    "qwen3_vl_text": "Qwen3ForCausalLM",
    "qwen3_vl_moe_text": "Qwen3MoeForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM",
    "qwen3_5_text": "Qwen3NextForCausalLM",
    "qwen3_5_moe_text": "Qwen3NextForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "rwkv7": "RWKV7ForCausalLM",
    "hgrn_bit": "HGRNBitForCausalLM",
    "smallthinker": "SmallThinkerForCausalLM",
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "vit": "ViTForImageClassification",
}


def build_model(file: ModelFile) -> Model:
    """The model a config describes, checked: whole numbers within bounds, heads that divide, experts that suffice.

    Of a multimodal model this is the text part (`text_config`) with the image encoder as its tower, or alone, as its source
    then says. Raises BadRequest that names the key, or lists the known architectures.
    """
    config = _text_part(file.config)
    architecture = _architecture(config)
    known = FAMILIES[architecture](config)
    facts: dict[str, Any] = {
        "name": file.name,
        "family": architecture,
        "tied_embeddings": flag(config, "tie_word_embeddings"),
        "dtype": _dtype(config),
        "quantization": quantization(config),
        "fp8": file.fp8,
        "source": file.source,
        "hub_id": file.id,
    } | known
    # Looked up only where the family has no spelling of its own.
    for key in ("hidden_size", "vocab_size"):
        if key not in facts:
            facts[key] = integer(config, key)
    if "max_position_embeddings" not in facts:
        facts["max_position_embeddings"] = integer(config, "max_position_embeddings", 0)
    facts["tower"] = vision.tower(file.config, facts["hidden_size"])
    if facts["tower"] is None and config is not file.config:
        facts["source"] += " (text part alone)"
    model = Model(**facts)
    for layer in model.layers:
        block = layer.feed_forward
        if isinstance(block, Experts) and block.experts_per_token > block.num_experts:
            keys = ", ".join(repr(key) for key in config if re.search("expert|moe|ffn_config", str(key)))[:300]
            raise BadRequest(
                f"the config.json sends a token to {block.experts_per_token} of {block.num_experts} experts: see {keys}"
            )
    return model


def _text_part(config: Config) -> Config:
    """The config of the language model inside, with the dtype and quantisation that the outer one declares."""
    inner = config.get("text_config")
    if not isinstance(inner, Mapping):
        return config
    shared = ("torch_dtype", "dtype", "quantization_config", "tie_word_embeddings")
    return {**{key: config[key] for key in shared if config.get(key) is not None}, **inner}


def _architecture(config: Config) -> str:
    listed = config.get("architectures")
    if listed is not None:
        if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
            raise BadRequest(f"'architectures' in the config.json has to be a list of names, not {shown(listed)}")
        for name in listed:
            if name in FAMILIES:
                return str(name)
    model_type = word(config, "model_type").lower()
    if model_type in MODEL_TYPES and listed is None:
        return MODEL_TYPES[model_type]
    name = listed[0] if listed else model_type
    if not name:
        raise BadRequest(f"the config.json names no architecture (`architectures`, `model_type`); known: {_known()}")
    close = nearest(name, FAMILIES)
    hint = f"did you mean {' or '.join(repr(one) for one in close)}? " if close else ""
    raise BadRequest(f"unknown architecture {shown(name)}: {hint}known: {_known()}")


def _known() -> str:
    """All architectures, without the endings that most share."""
    return ", ".join(
        sorted({re.sub(r"(For[A-Z]\w+|LMHeadModel|Model)$", "", name) for name in FAMILIES}, key=str.lower)
    )


def _dtype(config: Config) -> str:
    """The stored format; bf16, in which engines run a checkpoint that declares none."""
    return number_format(config, "torch_dtype" if word(config, "torch_dtype") else "dtype", "bf16")

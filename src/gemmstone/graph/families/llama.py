"""Dense decoders with RMSNorm, rotary positions and a gated MLP: Llama, Mistral, Qwen 1.5 to 3, Yi, Phi-3 and more.

They differ in biases (Qwen2 on q, k, v; Llama on request), in query and key norms (Qwen3) and in windows (Mistral, Phi-3).
Source: configuration and modelling files of transformers, models/llama, mistral, qwen2, qwen3, phi3, seed_oss, ernie4_5;
https://huggingface.co/internlm/internlm2-7b and https://huggingface.co/baichuan-inc/Baichuan2-13B-Base for theirs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemmstone.core.model import DenseMLP, Layer
from gemmstone.graph.families.fields import Config, flag, integer, integers
from gemmstone.graph.families.stack import attention, grouped


def llama(config: Config) -> dict[str, Any]:
    """Llama and those that copy it: biases only where attention_bias and mlp_bias say so."""
    bias = flag(config, "attention_bias")
    return _uniform(config, mlp_bias=flag(config, "mlp_bias"), qkv_bias=bias, output_bias=bias)


def mistral(config: Config) -> dict[str, Any]:
    """Mistral: 8 key/value heads and a window of 4,096 tokens where its config leaves them out; null means no window."""
    window = (
        4096
        if "sliding_window" not in config
        else integer(config, "sliding_window", 0, low=0, kind="max_position_embeddings")
    )
    return _uniform(config, default_kv_heads=8, window=window)


def phi3(config: Config) -> dict[str, Any]:
    """Phi-3: q, k, v in one matrix and gate, up in one, which changes no count."""
    return _uniform(config, window=integer(config, "sliding_window", 0, low=0, kind="max_position_embeddings"))


def qwen2(config: Config) -> dict[str, Any]:
    """Qwen 1.5, 2 and 2.5: biases on q, k and v; windows only above max_window_layers and only when switched on."""
    return _windowed(config, qkv_bias=True)


def qwen3(config: Config) -> dict[str, Any]:
    """Qwen3: a norm on each query and key head, heads of 128 whatever hidden_size is."""
    bias = flag(config, "attention_bias")
    return _windowed(config, qkv_bias=bias, output_bias=bias, qk_norm="head", default_head_dim=128)


def smollm3(config: Config) -> dict[str, Any]:
    """SmolLM3: every fourth layer without rotary positions, or those with a 0 in no_rope_layers; head tied."""
    count, every = integer(config, "num_hidden_layers"), integer(config, "no_rope_layer_interval", 4)
    turned = [(index + 1) % every > 0 for index in range(count)]
    if config.get("no_rope_layers") is not None:
        turned = [value > 0 for value in integers(config, "no_rope_layers", count, low=0)]
    bias = flag(config, "attention_bias")
    mixer = attention(config, qkv_bias=bias, output_bias=bias, default_kv_heads=4)
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"), bias=flag(config, "mlp_bias"))
    layers = (Layer(count=1, mixer=replace(mixer, rotary=rotary), feed_forward=mlp) for rotary in turned)
    return {"layers": grouped(layers), "tied_embeddings": flag(config, "tie_word_embeddings", True)}


def internlm2(config: Config) -> dict[str, Any]:
    """InternLM 2 and 3: one key for all biases, one of its own for those on q, k and v in 3."""
    bias = flag(config, "bias")
    return _uniform(config, mlp_bias=bias, qkv_bias=flag(config, "qkv_bias", bias), output_bias=bias)


def baichuan(config: Config) -> dict[str, Any]:
    """Baichuan 1 and 2: the 7B, told by its width, has rotary positions, the 13B slopes on the scores (ALiBi)."""
    return _uniform(config, rotary=integer(config, "hidden_size") == 4096)


def ernie(config: Config) -> dict[str, Any]:
    """ERNIE 4.5 dense: heads of 128 whatever hidden_size is, head tied unless it says otherwise."""
    bias = flag(config, "use_bias")
    facts = _uniform(config, mlp_bias=bias, qkv_bias=bias, output_bias=bias, default_head_dim=128)
    return {**facts, "tied_embeddings": flag(config, "tie_word_embeddings", True)}


def seed_oss(config: Config) -> dict[str, Any]:
    """Seed-OSS: biases on q, k and v, one on the output projection of its own key."""
    return _uniform(
        config,
        mlp_bias=flag(config, "mlp_bias"),
        qkv_bias=flag(config, "attention_bias", True),
        output_bias=flag(config, "attention_out_bias"),
        default_head_dim=128,
    )


def _uniform(config: Config, *, mlp_bias: bool = False, **mixer: Any) -> dict[str, Any]:
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"), bias=mlp_bias)
    count = integer(config, "num_hidden_layers")
    return {"layers": (Layer(count=count, mixer=attention(config, **mixer), feed_forward=mlp),)}


def _windowed(config: Config, **mixer: Any) -> dict[str, Any]:
    """Full attention in the first max_window_layers, a window in the others when use_sliding_window is set."""
    num_layers = integer(config, "num_hidden_layers")
    window = integer(config, "sliding_window", 0, low=0, kind="max_position_embeddings")
    if not window or not flag(config, "use_sliding_window"):
        return _uniform(config, **mixer)
    full = min(num_layers, integer(config, "max_window_layers", num_layers, low=0))
    mlp = DenseMLP(intermediate_size=integer(config, "intermediate_size"))
    layers = []
    for count, tokens in ((full, 0), (num_layers - full, window)):
        if count:
            layers.append(Layer(count=count, mixer=attention(config, window=tokens, **mixer), feed_forward=mlp))
    return {"layers": tuple(layers)}

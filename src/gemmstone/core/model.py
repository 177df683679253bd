"""A language model as a stack of layers made of a few kinds of block, with the facts that decide work and memory.

A family (graph/families) translates a Hugging Face config.json into this form; parameter counts, KV bytes and operations
are derived from it in one place for all families.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Softmax attention with a key/value cache: MHA (num_kv_heads = num_heads), GQA, or MQA (num_kv_heads = 1)."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    output_bias: bool = False
    # "" none, "head": a weight of head_dim for q and for k, "heads": one a head, "full": a norm over all q and all k heads
    qk_norm: str = ""
    qk_norm_bias: bool = False  # LayerNorm instead of RMSNorm on queries and keys
    rotary: bool = True
    window: int = 0  # tokens a query may look back, 0 for all
    chunk: int = 0  # tokens of the chunks that attention stays within (Llama 4), 0 for none
    sinks: bool = False  # a learned logit a head beside the keys (gpt-oss)
    output_gate: bool = False  # a second query projection whose sigmoid multiplies the output (Qwen3-Next)
    causal: bool = True  # encoders look both ways and keep no cache


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, 2405.04434): the cache holds kv_lora_rank + qk_rope_head_dim values a token."""

    num_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int = 0  # 0: queries are projected directly


@dataclass(frozen=True, kw_only=True)
class DenseMLP:
    """Two matrices (up, down), or three when gated (gate, up, down)."""

    intermediate_size: int
    gated: bool = True
    bias: bool = False
    shifted: int = (
        0  # width of its input where that is mixed with the one before, which is kept (RWKV); 0 for no such mix
    )


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Mixture of experts: each token goes through experts_per_token of num_experts gated MLPs and all shared ones."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    shared_intermediate_size: int = 0  # summed over the shared experts
    shared_gate: bool = False  # a scalar gate in front of the shared expert (Qwen2-MoE)
    router_bias: bool = False  # a per-expert correction or bias vector
    gated: bool = True
    bias: bool = False  # on the matrices of the routed experts
    routed_ahead: bool = False  # the router reads what attention reads, so that experts can be fetched meanwhile


@dataclass(frozen=True, kw_only=True)
class Layer:
    """`count` identical consecutive or interleaved layers: a token mixer, a feed-forward block and their norms.

    Blocks are of any kind in graph.blocks.KINDS; hybrids have layers with one of the two alone. Blocks that are `parallel`
    read the same input and add to one residual, so that tensor ranks join both sums at once.
    """

    count: int
    mixer: object | None
    feed_forward: object | None
    norms: int = 2  # norm weight vectors of hidden_size
    norm_bias: bool = False
    parallel: bool = False


@dataclass(frozen=True, kw_only=True)
class Tower:
    """An image encoder in front of a language model: patches in, rows of the language model's width out.

    Every `merge` x `merge` patches become one token, on which the `projector` matrices (inputs, outputs) act one after the
    other. With a `tile` all images are scaled or cut to squares of so many pixels, at most `max_tiles` of them and a
    reduced copy of the whole when there are several; 0 takes images as they are, scaled where a side is longer than
    `longest_side` or the area not between `least_pixels` and `most_pixels` (0: no bound).
    """

    hidden_size: int
    layers: tuple[Layer, ...]
    patch_size: int
    patch_elements: int  # values of a patch: channels x frames x patch_size^2
    merge: int = 1
    projector: tuple[tuple[int, int], ...] = ()
    tile: int = 0
    max_tiles: int = 1
    longest_side: int = 0
    least_pixels: int = 0
    most_pixels: int = 0
    class_tokens: int = 0  # rows beside the patches that the layers see
    other_parameters: int = 0  # biases, norms, positions


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What a checkpoint's quantization_config says: the stored format of its weights and which blocks keep the model dtype."""

    weights: str  # canonical number format, see core.dtypes
    activations: str = ""  # "" when weight-only
    kv_cache: str = ""
    experts_only: bool = False
    method: str = ""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Architecture facts of one model. Lengths in elements; `dtype` is the format its published weights are stored in."""

    name: str
    family: str
    hidden_size: int
    vocab_size: int
    layers: tuple[Layer, ...]
    tied_embeddings: bool = False
    embedding_size: int = 0  # width of the embedding when it differs from hidden_size (OPT-350m), 0 when equal
    learned_positions: int = 0  # rows of learned position and token type tables
    embedding_norm: bool = False  # a norm right after the embedding (BLOOM, BERT)
    final_norm: bool = True
    norm_bias: bool = False  # of the final norm
    lm_head_bias: bool = False
    has_head: bool = True  # encoders for embedding end without one
    pooler: bool = False  # a square matrix with a bias on one position of a sequence (BERT)
    extra_parameters: int = 0  # outside the layers: lower bounds, class tokens, biases
    patch_elements: int = 0  # an image encoder's tokens are products of patches of so many values, not looked up
    classes: int = 0  # outputs of a classification head, which reads one position of a sequence
    tower: Tower | None = None
    mtp_layers: tuple[Layer, ...] = ()  # of multi-token-prediction modules, one a module; embedding and head are shared
    max_position_embeddings: int = 0
    dtype: str = "bf16"
    quantization: Quantization | None = None
    fp8: str = ""  # flavour of the 8-bit checkpoint that its organisation publishes beside this one
    source: str = ""
    hub_id: str = ""  # as it is called on the Hugging Face Hub, where that is known

    @property
    def num_layers(self) -> int:
        """Layers in all groups together."""
        return sum(layer.count for layer in self.layers)

    @property
    def generates(self) -> bool:
        """Whether it can produce tokens; encoders look both ways and cannot."""
        return all(not isinstance(layer.mixer, Attention) or layer.mixer.causal for layer in self.layers)

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return any(isinstance(layer.feed_forward, Experts) for layer in self.layers)

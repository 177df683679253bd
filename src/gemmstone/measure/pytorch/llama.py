"""A Llama-shaped model in plain PyTorch with random weights: what eager code does, module by module.

As in the published implementation (transformers, models/llama/modeling_llama.py): one linear layer a projection, RMSNorm in fp32,
rotary positions by rotated halves, scaled_dot_product_attention over grouped heads, a gated MLP, logits of the last position.
On a processor new keys and values are appended to what is cached by concatenation, as DynamicCache does (cache_utils.py); for CUDA graphs
they lie in a cache of fixed length that a step writes into.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, DenseMLP, Layer, Model
from gemmstone.measure.pytorch import ops

THETA = 10000.0  # base of the rotary positions: which one it is changes no time
EPSILON = 1e-6
DEVIATION = 0.02  # of the weights, as Llama's initializer_range


class Norm(nn.Module):
    """RMSNorm: the mean square in fp32, the result in the model's format."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """The normed rows."""
        wide = hidden.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
        return self.weight * wide.to(hidden.dtype)


class SelfAttention(nn.Module):
    """Projections, rotary positions, the cache, softmax attention and the output projection."""

    def __init__(self, block: Attention, hidden: int) -> None:
        super().__init__()
        self.block = block
        width, kv_width = block.num_heads * block.head_dim, block.num_kv_heads * block.head_dim
        self.q_proj = nn.Linear(hidden, width, bias=block.qkv_bias)
        self.k_proj = nn.Linear(hidden, kv_width, bias=block.qkv_bias)
        self.v_proj = nn.Linear(hidden, kv_width, bias=block.qkv_bias)
        self.o_proj = nn.Linear(width, hidden, bias=block.output_bias)
        self.q_norm, self.k_norm = (Norm(block.head_dim) if block.qk_norm else nn.Identity() for _ in "qk")

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, cache: Cache, past: int, mask: Tensor | None) -> Tensor:
        """The block's output [batch, tokens, hidden]; the new keys and values stand in the cache afterwards."""
        batch, tokens, _ = hidden.shape
        heads = (batch, tokens, -1, self.block.head_dim)
        query = self.q_norm(self.q_proj(hidden).view(heads)).transpose(1, 2)
        key = self.k_norm(self.k_proj(hidden).view(heads)).transpose(1, 2)
        value = self.v_proj(hidden).view(heads).transpose(1, 2)
        if self.block.rotary:
            query, key = ops.rotate(query, cos, sin), ops.rotate(key, cos, sin)
        key, value = cache.extended(key, value, past)
        out = ops.attend(query, key, value, mask=mask, causal=mask is None and tokens > 1)
        projected: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, tokens, -1))
        return projected


class FeedForward(nn.Module):
    """Gate, up, the product of the two, and down."""

    def __init__(self, block: DenseMLP, hidden: int) -> None:
        super().__init__()
        self.gated = block.gated
        if block.gated:
            self.gate_proj = nn.Linear(hidden, block.intermediate_size, bias=block.bias)
        self.up_proj = nn.Linear(hidden, block.intermediate_size, bias=block.bias)
        self.down_proj = nn.Linear(block.intermediate_size, hidden, bias=block.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """The block's output [batch, tokens, hidden]."""
        up = self.up_proj(hidden)
        projected: Tensor = self.down_proj(ops.gate(self.gate_proj(hidden), up) if self.gated else F.silu(up))
        return projected


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each behind its norm and added to the residual."""

    def __init__(self, layer: Layer, hidden: int) -> None:
        super().__init__()
        if not isinstance(layer.mixer, Attention) or not isinstance(layer.feed_forward, DenseMLP) or layer.mixer.window:
            raise BadRequest(
                "what is measured whole has Llama's shape: full softmax attention and dense MLPs, of any size"
            )
        self.input_norm, self.post_norm = Norm(hidden), Norm(hidden)
        self.attention, self.mlp = SelfAttention(layer.mixer, hidden), FeedForward(layer.feed_forward, hidden)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, cache: Cache, past: int, mask: Tensor | None) -> Tensor:
        """Rows of the residual after this layer."""
        hidden = hidden + self.attention(self.input_norm(hidden), cos, sin, cache, past, mask)
        after: Tensor = hidden + self.mlp(self.post_norm(hidden))
        return after


class Cache:
    """Keys and values of one layer, [batch, kv_heads, tokens, head_dim], room for `tokens` of each sequence.

    On a processor a step joins what is there with what is new; `whole` has it look at all of the room under a mask, at a place that lies on the
    device, because a CUDA graph replays with the shapes it was captured with.
    """

    def __init__(self, block: Attention, batch: int, tokens: int, dtype: torch.dtype, device: str, whole: bool) -> None:
        shape = (batch, block.num_kv_heads, tokens, block.head_dim)
        self.keys, self.values = (torch.randn(shape, device=device, dtype=torch.float32).to(dtype) for _ in "kv")
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.whole = whole

    def extended(self, key: Tensor, value: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """All keys and values a step looks at, the new ones written behind the `past` ones."""
        if self.whole and key.shape[2] == 1:
            self.keys.index_copy_(2, self.place, key)
            self.values.index_copy_(2, self.place, value)
            return self.keys, self.values
        joined = torch.cat((self.keys[:, :, :past], key), dim=2), torch.cat((self.values[:, :, :past], value), dim=2)
        end = past + key.shape[2]
        if end == self.keys.shape[2]:
            self.keys, self.values = joined
        else:
            self.keys[:, :, past:end], self.values[:, :, past:end] = key, value
        return joined


class Llama(nn.Module):
    """Embedding, layers, norm and head of a Model whose layers are softmax attention and a dense MLP."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.embedding = nn.Embedding(model.vocab_size, model.hidden_size)
        stack = [DecoderLayer(layer, model.hidden_size) for layer in model.layers for _ in range(layer.count)]
        self.layers = nn.ModuleList(stack)
        self.norm = Norm(model.hidden_size)
        self.head = nn.Linear(model.hidden_size, model.vocab_size, bias=False)
        if model.tied_embeddings:
            self.head.weight = self.embedding.weight
        dim = self.head_dim
        frequencies = 1.0 / THETA ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        self.register_buffer("frequencies", frequencies, persistent=False)

    @property
    def head_dim(self) -> int:
        """Values of a head."""
        return next(block.head_dim for layer in self.model.layers if isinstance(block := layer.mixer, Attention))

    def forward(self, tokens: Tensor, caches: list[Cache], past: int, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Logits of the last position of each sequence, [batch, 1, vocab]."""
        hidden = self.embedding(tokens)
        angles = positions[:, None].float() * self.get_buffer("frequencies").float()
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)
        for layer, cache in zip(self.layers, caches, strict=True):
            hidden = layer(hidden, cos, sin, cache, past, mask)
        logits: Tensor = self.head(self.norm(hidden[:, -1:]))
        return logits

    def caches(self, batch: int, tokens: int, whole: bool = False) -> list[Cache]:
        """Caches with room for so many tokens of each sequence, filled at random."""
        weight = self.embedding.weight
        where = str(weight.device)
        return [
            Cache(layer.attention.block, batch, tokens, weight.dtype, where, whole)  # type: ignore[union-attr, arg-type]
            for layer in self.layers
        ]


def llama(model: Model, dtype: Any, device: str = "cpu", seed: int = 0) -> Any:
    """A Llama-shaped model with random weights of LLMs' usual size, ready to run."""
    with torch.device("meta"):
        made = Llama(model).to(dtype)
    made = made.to_empty(device=device)
    if model.tied_embeddings:
        made.head.weight = made.embedding.weight
    made.frequencies = (1.0 / THETA ** (torch.arange(0, made.head_dim, 2, dtype=torch.float32) / made.head_dim)).to(
        device
    )
    return filled(made, seed)


def filled(module: Any, seed: int = 0) -> Any:
    """The module with random weights and norms of ones, ready to run and never to be trained."""
    with torch.no_grad():
        for place, (name, weight) in enumerate(module.named_parameters()):
            if "norm" in name:
                weight.fill_(1.0)
            else:
                weight.normal_(
                    0.0, DEVIATION, generator=torch.Generator(device=weight.device).manual_seed(seed + place)
                )
    return module.eval().requires_grad_(False)

"""The operations of a Llama-shaped decoder as PyTorch runs them eagerly, as Hugging Face's modelling code spells them.

Kernels that are measured apart and models that are measured whole call the same functions, so that the sum of the parts can be
held against the whole. https://github.com/huggingface/transformers, models/llama/modeling_llama.py and
integrations/sdpa_attention.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor
GROUPED_CAPABILITY = (9, 0)


def add_norm(branch: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The residual with the branch added, and its RMSNorm computed in fp32: an addition and six further kernels."""
    residual = residual + branch
    wide = residual.to(torch.float32)
    variance = wide.pow(2).mean(-1, keepdim=True)
    wide = wide * torch.rsqrt(variance + eps)
    return residual, weight * wide.to(residual.dtype)


def rotate(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [..., head_dim]: halves swapped, not neighbours."""
    half = values.shape[-1] // 2
    swapped = torch.cat((-values[..., half:], values[..., :half]), dim=-1)
    return values * cos + swapped * sin


def gate(gates: Tensor, values: Tensor) -> Tensor:
    """SwiGLU: silu of the gate, times the values."""
    return F.silu(gates) * values


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Attention [batch, heads, tokens, head_dim] over [batch, kv_heads, context, head_dim]."""
    grouped = queries.shape[1] != keys.shape[1]
    # without the argument where it says nothing: kernels of accelerators that know no groups are chosen by its absence
    options: dict[str, Any] = {"enable_gqa": True} if grouped else {}
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal, **options)


def causal_mask(tokens: int, past: int, window: int = 0, device: str = "cpu") -> Tensor:
    """True where a query [tokens] sees a key [past + tokens]: itself and before, at most the last `window` keys."""
    query = torch.arange(past, past + tokens, device=device).unsqueeze(1)
    key = torch.arange(past + tokens, device=device).unsqueeze(0)
    seen = key <= query
    return seen & (key > query - window) if window else seen


def experts_one_by_one(hidden: Tensor, chosen: Tensor, shares: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The MLPs of the experts that some token chose, one after the other, as Hugging Face runs them without grouped kernels.

    hidden [tokens, hidden]; chosen and shares [tokens, experts_per_token]; gate_up [experts, 2 intermediate, hidden]; down
    [experts, hidden, intermediate]. An expert number that is not among `gate_up` belongs to another device and is left out.
    """
    out = torch.zeros_like(hidden)
    for expert in torch.unique(chosen).tolist():
        if expert >= gate_up.shape[0]:
            continue
        token, place = torch.where(chosen == expert)
        gates, values = F.linear(hidden[token], gate_up[expert]).chunk(2, dim=-1)
        result = F.linear(gate(gates, values), down[expert]) * shares[token, place, None]
        out.index_add_(0, token, result.to(out.dtype))
    return out


def has_grouped_products(device: str) -> bool:
    """Whether torch._grouped_mm has a kernel of its own there (https://github.com/pytorch/pytorch, aten/src/ATen/native/cuda)."""
    return (
        device != "cpu"
        and hasattr(torch, "_grouped_mm")
        and torch.cuda.get_device_capability(device) >= GROUPED_CAPABILITY
    )


def experts_grouped(hidden: Tensor, chosen: Tensor, shares: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The same in two grouped products: rows sorted by expert, and where each expert's end. All experts are on this device."""
    tokens, per_token = chosen.shape
    flat = chosen.reshape(-1)
    order = torch.argsort(flat)
    experts = torch.arange(gate_up.shape[0], device=flat.device)
    ends = torch.searchsorted(flat[order], experts, right=True).to(torch.int32)  # waits for no kernel, as a count would
    rows = hidden[order // per_token]
    product: Any = torch._grouped_mm
    gates, values = product(rows, gate_up.transpose(-2, -1), offs=ends).chunk(2, dim=-1)
    result: Tensor = product(gate(gates, values), down.transpose(-2, -1), offs=ends)
    out = torch.empty_like(result)
    out[order] = result * shares.reshape(-1)[order, None].to(result.dtype)
    return out.view(tokens, per_token, -1).sum(1)

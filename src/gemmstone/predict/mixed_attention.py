"""Decoding sequences beside prompts, where one attention call computes both.

A kernel made for decoding shares the keys of a sequence between thread blocks and packs the queries of a group of heads.
FlashAttention-2 has both for calls with one query a sequence alone: next to a prompt every decoding sequence gets a tile of
queries for itself, in which all rows but one are empty, and one block goes through all of its keys. vLLM takes that version
on compute capability 8 and 12 (get_flash_attn_version, vllm/v1/attention/backends/fa_utils.py; version 3, which packs, on 9;
FlashInfer and TensorRT-LLM's kernels, which keep the two apart, on 10). So such a sequence costs what a tile of a prompt does:

    t = max( decode, prompt of TILE_ROWS queries behind the same context )

On an RTX PRO 6000 a batch of 128 beside a prompt takes 1.7 to 2.2 times what the two take alone (LLMServingSim's profiles of vLLM
0.19); by this form the median of 52,000 mixed calls there comes out within a tenth.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.calibration import KernelTime
from gemmstone.core.hardware import Device
from gemmstone.core.work import Op
from gemmstone.ops import attention

TILE_ROWS = 64.0  # of the kernel for paged caches (run_mha_fwd_splitkv_dispatch, csrc/flash_attn/src/flash_fwd_launch_template.h)
ENGINES = ("vllm", "generic")
ARCHITECTURES = ("ampere", "ada", "blackwell-workstation")


def in_tiles(op: Op, engine: str, device: Device) -> Op | None:
    """The prompts that decoding sequences cost as much as beside real ones; None where they have a call of their own."""
    if op.kind != "attention_decode" or engine not in ENGINES or device.architecture not in ARCHITECTURES:
        return None
    if op.variant not in dtypes.BYTES:  # a cache that is packed in another way is read by a kernel of its own
        return None
    shape = op.shape
    if not np.any(np.asarray(shape.get("prompts", 0.0)) > 0):
        return None
    tiles = attention.prefill(
        op.name,
        batch=shape["batch"],
        tokens=TILE_ROWS,
        past=shape["context"],
        heads=shape["heads"],
        kv_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        kv_cache=op.variant,
        count=op.count,
    )
    return replace(
        tiles, read_bytes=op.read_bytes, write_bytes=op.write_bytes
    )  # empty rows are neither read nor written


def slower(op: Op, alone: KernelTime, tiled: KernelTime) -> KernelTime:
    """At each point with prompts the slower of the two kernels, elsewhere the one made for decoding."""
    beside = np.asarray(op.shape["prompts"], dtype=float) > 0
    takes = beside & np.asarray(tiled.time_s > alone.time_s)
    return KernelTime(*(np.where(takes, there, here) for here, there in zip(alone, tiled, strict=True)))

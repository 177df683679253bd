"""Products inside whole layers, timed in vLLM on graphics cards: what a law knows of chips with GDDR memory.

The table is LLMServingSim's profile of Llama 3.1 8B (github.com/casys-kaist/LLMServingSim, MIT): nanoseconds of every layer at
1 to 2048 tokens, whole and halved over two cards.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import Sample, group_ids
from gemmstone.ops import matmul

TABLE = "llmservingsim_v0_layers.parquet"
MODEL = "meta-llama/Llama-3.1-8B"
CARDS = {"A6000": "a6000", "RTX3090": "rtx-3090"}
# Outputs of projections that read the hidden state of 4096, and inputs of those that write it; halved over two cards.
OUTPUTS = {"q_proj": 4096, "k_proj": 1024, "v_proj": 1024, "gate_proj": 14336, "up_proj": 14336, "lm_head": 128256}
INPUTS = {"o_proj": 4096, "down_proj": 14336}
HIDDEN = 4096
FEW_ROWS = 16  # up to here every number of tokens is taken, beyond it those next to a multiple of it


def read(directory: Path) -> list[Sample]:
    """The products of each card; none where the table is not there."""
    import polars as pl

    path = directory / TABLE
    if not path.is_file():
        return []
    digest = tables.sha256_of(path)
    rows = tables.read(path).filter((pl.col("model") == MODEL) & pl.col("layer_name").is_in([*OUTPUTS, *INPUTS]))
    rows = rows.filter((pl.col("input") <= FEW_ROWS) | (pl.col("input") % FEW_ROWS).is_in([0, 1]))
    found = []
    for card, slug in CARDS.items():
        mine = rows.filter((pl.col("gpu") == card) & (pl.col("latency(ns)") > 0))
        shapes = [_shape(name, split) for name, split in mine.select("layer_name", "tp").iter_rows()]
        n, k = (np.array(column, dtype=float) for column in zip(*shapes, strict=True))
        m = mine["input"].to_numpy().astype(float)
        found.append(
            Sample(
                device=slug,
                engine="vllm",
                variant="bf16",
                kernel="layers",
                op=matmul.gemm("gemm", m=m, n=n, k=k),
                seconds=mine["latency(ns)"].to_numpy().astype(float) * 1e-9,
                groups=group_ids(n, k),
                inputs={"table": TABLE, "sha256": digest},
            )
        )
    return found


def _shape(name: str, split: int) -> tuple[int, int]:
    """(n, k) of a projection on one of `split` cards."""
    return (OUTPUTS[name] // split, HIDDEN) if name in OUTPUTS else (HIDDEN, INPUTS[name] // split)

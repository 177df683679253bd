"""A latency table of measured transformer layers: what it predicts of random networks here, and what a search over it finds.

python benchmarks/block_table.py [--table FILE] [--threads N] [--networks N]

Measures every block (width, KV heads, MLP) once, sums them to predict random networks, and measures those. Then searches all sizes by
gradients and exhaustively, at several prices of a second. --table keeps what was measured, or reads it when it is there. Exits with 1
while a bar is missed. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gemmstone.measure import timing
from gemmstone.measure.pytorch import blocks
from gemmstone.measure.pytorch.blocks import Block
from gemmstone.plan import block_search
from gemmstone.plan.block_search import Space

WIDTHS = (256, 512, 768, 1024)
QUERIES = (1, 2, 4)  # query heads a KV head
RATIOS = (2, 3, 4)  # width inside the MLP over the width
DEPTHS = tuple(range(4, 14))
VOCAB, TOKENS = 8192, 64
TRAINED = 20e9  # tokens of the proxy's law
PRICES = tuple(float(price) for price in np.geomspace(0.1, 30, 20))  # nats a second
ERROR_BAR = 0.10
LIMIT_S = 0.7
SEED = 61
ROUNDS = 2


def block(width: int, queries: int, ratio: int) -> Block:
    """The block of a point of the table."""
    return Block(width, width // blocks.HEAD_DIM // queries, ratio * width)


def seconds(prepared: Any) -> float:
    """Median seconds of a call."""
    return timing.interval(timing.timed(prepared, limit_s=LIMIT_S).kept_s).median


def measure(networks: int) -> dict[str, Any]:
    """Seconds of blocks, ends and random networks, each the smaller median of rounds with everything else between."""
    draw = np.random.default_rng(SEED)
    drawn = []
    for _ in range(networks):
        width, depth = int(draw.choice(WIDTHS)), int(draw.choice(DEPTHS))
        drawn.append([(width, int(draw.choice(QUERIES)), int(draw.choice(RATIOS))) for _ in range(depth)])
    rounds = []
    for _ in range(ROUNDS):
        table = [[[_block_s(block(w, q, r)) for r in RATIOS] for q in QUERIES] for w in WIDTHS]
        ends = [seconds(blocks.prepared_ends(block(w, 1, 2), VOCAB, TOKENS)) for w in WIDTHS]
        whole = [seconds(blocks.prepared_network([block(*one) for one in net], VOCAB, TOKENS)) for net in drawn]
        rounds.append((table, ends, whole))
    table, ends, whole = (np.min([one[part] for one in rounds], axis=0).tolist() for part in range(3))
    apart = [float(np.median(np.abs(np.divide(rounds[0][part], rounds[-1][part]) - 1))) for part in range(3)]
    environment = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {TOKENS} tokens, fp32"
    return {
        "environment": environment,
        "blocks": table,
        "ends": ends,
        "networks": drawn,
        "whole": whole,
        "apart": apart,
    }


def _block_s(one: Block) -> float:
    prepared, count = blocks.prepared_stack(one, TOKENS)
    return seconds(prepared) / count


def space(measured: dict[str, Any]) -> Space:
    """What is searched: the table, and parameters of the same blocks."""
    sizes = [[[block(w, q, r).parameters for r in RATIOS] for q in QUERIES] for w in WIDTHS]
    ends = [2.0 * VOCAB * width + width for width in WIDTHS]
    return Space(
        np.array(measured["blocks"]),
        np.array(sizes, dtype=float),
        np.array(measured["ends"]),
        np.array(ends),
        np.array(DEPTHS, dtype=float),
    )


def predicted(measured: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Seconds of the networks by the table."""
    found = []
    for net in measured["networks"]:
        at = [(WIDTHS.index(w), QUERIES.index(q), RATIOS.index(r)) for w, q, r in net]
        found.append(measured["ends"][at[0][0]] + sum(measured["blocks"][w][q][r] for w, q, r in at))
    return np.array(found)


def report(measured: dict[str, Any]) -> bool:
    """Prints the errors and what was found; whether the bars are met."""
    ratio = predicted(measured) / np.array(measured["whole"])
    error = float(np.abs(ratio - 1).mean())
    print(
        f"{measured['environment']}; rounds differ by {', '.join(f'{one:.1%}' for one in measured['apart'])} (blocks, ends, networks)"
    )
    print(f"{len(ratio)} random networks: mean error {error:.1%}, largest {np.abs(ratio - 1).max():.1%}")
    print(
        f"interaction, measured over the sum: {(1 / ratio).mean() - 1:+.1%} in the mean, {(1 / ratio).std():.1%} scatter"
    )
    searched, reached, worst = space(measured), 0, 0.0
    started = time.process_time()
    for price in PRICES:
        best = block_search.exhaustive(searched, price, TRAINED)
        found = block_search.differentiable(searched, price, TRAINED)
        reached += found.choice == best.choice
        worst = max(worst, found.cost - best.cost)
    chosen = len({block_search.exhaustive(searched, price, TRAINED).choice for price in PRICES})
    print(
        f"search: {reached} of {len(PRICES)} prices end at the best of {np.prod(searched.shape)} sizes ({chosen} different ones); "
        f"at most {worst:.2g} nats from it; {(time.process_time() - started) / len(PRICES):.2f} CPU s each"
    )
    return error <= ERROR_BAR and reached == len(PRICES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", type=int, default=20)
    asked = parser.parse_args()
    if asked.table and asked.table.exists():
        measured = json.loads(asked.table.read_text(encoding="utf-8"))
    else:
        torch.set_num_threads(asked.threads)
        measured = measure(asked.networks)
        if asked.table:
            asked.table.write_text(json.dumps(measured), encoding="utf-8")
    sys.exit(0 if report(measured) else 1)


if __name__ == "__main__":
    main()

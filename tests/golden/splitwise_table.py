"""Points of the table that comes with Splitwise (arXiv:2311.18677): Llama-2-70B, medians of five runs, github.com/Mutinifni/splitwise-sim
data/perf_model.csv, MIT. Sequences, tokens of each prompt, milliseconds of the prompts, of a token, average power over the TDP."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path

from gemmstone.calibrate.phases import Phase

TABLES = Path(__file__).with_name("splitwise_perf_model.csv")

H100_TP8 = (
    (1, 128, 58.2, 29.9), (1, 256, 51.7, 28.3), (1, 512, 53.4, 29.8), (1, 1024, 77.9, 29.7), (1, 2048, 136.8, 31.0),
    (1, 4096, 390.3, 30.6), (1, 8192, 844.9, 31.4), (2, 512, 76.9, 30.3), (4, 512, 132.6, 31.8), (8, 512, 371.6, 32.5),
    (16, 512, 811.9, 34.2), (32, 512, 1551.7, 38.6), (64, 512, 2936.3, 50.2),
)  # fmt: skip
A100_TP2 = (
    (1, 128, 81.1, 53.7), (1, 256, 112.9, 54.1), (1, 512, 196.9, 54.9), (1, 1024, 377.1, 54.8), (1, 2048, 688.1, 54.9),
    (1, 4096, 1485.3, 55.9), (1, 8192, 2990.2, 57.3), (2, 512, 416.5, 59.9), (4, 512, 845.4, 60.5), (8, 512, 1596.8, 61.7),
    (16, 512, 3238.8, 65.5), (32, 512, 6632.6, 72.2), (64, 512, 794.2, 67.2),
)  # fmt: skip
# Llama-2-70B on eight A100: sequences of 512 tokens, average power over the TDP (mostly of the token phase) and peak power
POWER_A100_TP8 = (
    (1, 0.4349, 0.7488),
    (2, 0.4281, 0.7631),
    (4, 0.4378, 0.9187),
    (8, 0.4340, 0.9715),
    (16, 0.4584, 0.9952),
)


def points(rows: tuple[tuple[int, int, float, float], ...]) -> list[Phase]:
    """Rows as measured points."""
    return [
        Phase(batch=batch, input_tokens=length, prompt_s=prompt / 1e3, token_s=token / 1e3)
        for batch, length, prompt, token in rows
    ]


@cache
def tables() -> dict[tuple[str, str, int], list[Phase]]:
    """All eight measured tables: model, GPU, degree of tensor parallelism."""
    found: dict[tuple[str, str, int], list[Phase]] = defaultdict(list)
    lines = (line for line in TABLES.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    for row in csv.DictReader(lines):
        found[row["model"], row["gpu"], int(row["tensor_parallel"])].append(
            Phase(
                batch=int(row["batch"]),
                input_tokens=int(row["input_tokens"]),
                prompt_s=float(row["prompt_ms"]) / 1e3,
                token_s=float(row["token_ms"]) / 1e3,
                power_frac=float(row["power_frac"]),
            )
        )
    return dict(found)

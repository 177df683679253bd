"""Training in fp32 and bf16 in turn: the blocks that benchmarks/mixed_precision.py wrote on one machine.

A virtual machine with two cores of an EPYC 9004, PyTorch 2.13 with oneDNN (AVX-512 bf16). It has no meter: power is modelled, so
watts tell how busy the processor was and nothing of formats.
"""

from __future__ import annotations

import csv
from pathlib import Path

TABLE = Path(__file__).with_name("mixed_precision_runs.csv")
FORMATS = ("fp32", "bf16")


def rows() -> list[dict[str, str]]:
    """All blocks, disturbed ones too."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def blocks(column: str) -> dict[str, list[float]]:
    """Values of the blocks that nothing disturbed, by format: step_s, mean_w, or step_j, joules of a step."""
    calm = [row for row in rows() if not row["disturbed"]]
    return {name: [_value(row, column) for row in calm if row["format"] == name] for name in FORMATS}


def _value(row: dict[str, str], column: str) -> float:
    return float(row["energy_j"]) / float(row["steps"]) if column == "step_j" else float(row[column])

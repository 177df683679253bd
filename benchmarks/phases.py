"""How well times of prompts and tokens are fitted to the table that comes with Splitwise, and which of its rows cannot be.

python benchmarks/phases.py TABLES
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from gemmstone.calibrate import phases
from gemmstone.calibrate.phases import Phase

TABLE = "serving_throughput.csv"
TOKEN_BAR, PROMPT_BAR = 0.06, 0.10
Key = tuple[str, str, int]


def read(path: Path) -> dict[Key, list[Phase]]:
    """Points of each model, GPU and degree of tensor parallelism."""
    cells: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["dataset"] == "splitwise":
                place = tuple(row[name] for name in ("model", "hardware", "tp", "batch", "isl", "osl"))
                cells[place][row["metric"]] = float(row["value"])
    tables: dict[Key, list[Phase]] = defaultdict(list)
    for (model, hardware, ranks, batch, length, _), values in sorted(cells.items()):
        tables[model, hardware, int(float(ranks))].append(
            Phase(
                batch=int(float(batch)),
                input_tokens=int(float(length)),
                prompt_s=values["ttft_prompt_time_median"] / 1e3,
                token_s=values["token_time_median"] / 1e3,
                power_frac=values.get("avg_power_frac_tdp"),
            )
        )
    return tables


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    tables, good = read(Path(arguments[0]) / TABLE), True
    print("model       GPU             TP  rows  token  left out  prompt  left out  bend, tokens")
    for (model, hardware, ranks), rows in tables.items():
        wrong = phases.suspicious(rows)
        kept = [row for number, row in enumerate(rows, start=1) if number not in wrong]
        found = phases.fit(kept)
        good = good and found.token_error <= TOKEN_BAR and found.prompt_error <= PROMPT_BAR
        print(
            f"{model:11s} {hardware:15s} {ranks:2d} {found.rows:5d} {found.token_error:6.1%} {found.token_holdout:8.1%}"
            f" {found.prompt_error:8.1%} {found.prompt_holdout:8.1%} {found.bend_tokens:12,.0f}"
        )
        for line in wrong.values():
            print(f"  left out, {line}")
    for model, ranks in sorted({(key[0], key[2]) for key in tables}):
        pair = {name: tables[model, name, ranks] for name in ("h100-80gb", "h100-80gb-pcap")}
        print(f"{model} TP{ranks}, not measured: {'; '.join(phases.copies(pair))}")
    print(f"Bars {'met' if good else 'MISSED'}: tokens 6%, prompts 10%")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""How true the simulator is: the same requests at the same times as in measured replays, and what became of each.

python benchmarks/replay.py TRUTH [--by]

TRUTH holds serving_vllm_requests.csv, a row a request: what ran where and how, when it came, its lengths, and when its first and
last token came by the engine's own clock. Nothing is fitted to it. --by shows percentiles of every replay. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.predict.deploy import Choice
from gemmstone.predict.money import Money
from gemmstone.simulate.requests import Served, requests, whole
from gemmstone.simulate.scenario import Scenario, made
from gemmstone.simulate.serving import serve
from gemmstone.simulate.simulation import Asked, fleet_of, options_of

FILE = "serving_vllm_requests.csv"
E2E_BAR, TTFT_BAR = 0.10, 0.25  # of the median error of a request's time, and of the 99th percentile of first tokens
PERCENTILES = (50, 90, 99)
# what makes requests of one replay
RUN = (
    "hardware",
    "model",
    "vllm_version",
    "tp",
    "dp",
    "expert_parallel",
    "max_num_seqs",
    "max_num_batched_tokens",
    "dtype",
)
FORMATS = {"bfloat16": "bf16", "float16": "fp16", "float8_e4m3fn": "fp8", "fp8": "fp8"}
Row = Mapping[str, str]


class Times(NamedTuple):
    """Seconds of each request of one replay, measured or simulated, and of the whole."""

    e2e_s: Array
    ttft_s: Array
    tpot_s: Array
    whole_s: float


def read(path: Path) -> dict[tuple[str, ...], list[Row]]:
    """Requests of each replay in order of arrival."""
    found: dict[tuple[str, ...], list[Row]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(tuple(row[name] for name in RUN), []).append(row)
    return {key: sorted(rows, key=lambda row: float(row["arrival_s"])) for key, rows in found.items()}


def measured(rows: Sequence[Row]) -> Times:
    """What was measured of a replay."""
    e2e, ttft, tpot, arrival = (
        np.array([float(row[name]) for row in rows]) for name in ("e2e_s", "ttft_s", "tpot_s", "arrival_s")
    )
    return Times(e2e, ttft, tpot, float((arrival + e2e).max()))


def simulated(rows: Sequence[Row]) -> Times:
    """What the simulator makes of the same requests on the same deployment."""
    row = rows[0]
    tensor, copies = int(row["tp"]), int(row["dp"])
    shared = row["expert_parallel"] == "True"  # experts over all devices: attention in data-parallel ranks beside them
    choice = Choice(
        weights=FORMATS[row["dtype"]],
        tensor_parallel=tensor,
        expert_parallel=tensor * copies if shared else None,
        attention_dp=copies if shared else None,
        data_parallel=None if shared else copies,
        max_num_seqs=int(row["max_num_seqs"]),
        max_num_batched_tokens=int(row["max_num_batched_tokens"]),
        engine_version=row["vllm_version"],
    )
    scenario = Scenario(
        model=row["model"], hardware=row["hardware"], num_devices=tensor * copies, engine="vllm", choice=choice
    )
    arrival, prompts, answers = (
        np.array([float(row[name]) for row in rows]) for name in ("arrival_s", "input_toks", "output_toks")
    )
    asked = Asked(scenario=scenario, traffic=whole("replay", requests(arrival, prompts, answers)))
    system, parts = made(scenario), list[Served]()
    fleet = fleet_of(asked, system, Money().economics(system.cluster.device))  # type: ignore[union-attr]
    # The engine's own clock was read, in its core: nothing in front of the scheduler or behind the step counts.
    fleet = [replace(replica, emit_steps=0.0) for replica in fleet]
    run = serve(fleet, asked.traffic, replace(options_of(asked, system), front_s=0.0), parts.append)
    e2e, ttft, tpot = (np.concatenate([getattr(part, name) for part in parts]) for name in Times._fields[:3])
    return Times(e2e, ttft, tpot, run.totals.duration_s)


def error(found: Array, known: Array) -> float:
    """Median of |simulated / measured - 1| over requests."""
    return float(np.median(np.abs(found / known - 1.0)))


def show(name: str, known: Times, found: Times) -> None:
    """Percentiles of a replay, measured and simulated."""
    for metric in Times._fields[:3]:
        both = [np.percentile(getattr(times, metric), PERCENTILES) for times in (known, found)]
        pairs = (f"p{p} {a:.3g} -> {b:.3g}" for p, a, b in zip(PERCENTILES, *both, strict=True))
        print(f"    {name} {metric:7s} measured -> simulated: {'  '.join(pairs)}")


def main(arguments: Sequence[str]) -> int:
    paths = [text for text in arguments if not text.startswith("-")]
    if len(paths) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    good, errors = True, []
    print(f"{'replay':44} requests    E2E  TPOT  TTFT p50    p90    p99  duration")
    for key, rows in read(Path(paths[0]) / FILE).items():
        name = f"{key[1]} on {int(key[3]) * int(key[4])} {key[0]}"
        known, found = measured(rows), simulated(rows)
        errors.append(np.abs(found.e2e_s / known.e2e_s - 1.0))
        tails = [float(np.percentile(found.ttft_s, p) / np.percentile(known.ttft_s, p)) - 1.0 for p in PERCENTILES]
        print(
            f"{name:44} {len(rows):8d} {error(found.e2e_s, known.e2e_s):6.1%} {error(found.tpot_s, known.tpot_s):5.1%}"
            f"  {tails[0]:+8.1%} {tails[1]:+6.1%} {tails[2]:+6.1%}   {found.whole_s / known.whole_s - 1.0:+6.1%}"
        )
        if "--by" in arguments:
            show(key[1], known, found)
        good &= float(np.median(errors[-1])) <= E2E_BAR and abs(tails[-1]) <= TTFT_BAR
    median = float(np.median(np.concatenate(errors)))
    print(
        f"all requests: median E2E error {median:.1%}, bar {E2E_BAR:.0%}; p99 TTFT of each replay, bar {TTFT_BAR:.0%}"
    )
    print("met" if good else "MISSED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

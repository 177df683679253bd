"""The largest rate of requests that systems sustain: predicted by simulation, and as MLPerf's Server scenario measured it.

python benchmarks/mlperf_server.py TRUTH [--by]

TRUTH holds mlperf_inference_runs.csv, a row a run. Nothing is fitted to it. A prediction knows the accelerators, the engine and the
benchmark's latency limits; tensor parallelism and the number of sequences, which results do not publish, are those that sustain most,
as a submitter would choose. Requests come as in the scenario (Poisson for ten minutes) with lengths of catalog/traffic. Beside it Offline, all
samples at once, and the ratio of both, in which errors of throughput divide out. --by shows every system. Exit code 1 when a
bar is missed.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmstone.core.errors import GemmstoneError
from gemmstone.predict.deploy import Choice
from gemmstone.predict.money import Money
from gemmstone.simulate import capacity, workers
from gemmstone.simulate.outcome.presets import MLPERF
from gemmstone.simulate.scenario import Scenario, system
from gemmstone.simulate.serving import Options, serve
from gemmstone.simulate.simulation import lengths_of, scheduled
from gemmstone.simulate.traffic.asked import Asked
from gemmstone.simulate.traffic.mlperf import LEAST_S
from gemmstone.simulate.traffic.named import named
from gemmstone.simulate.traffic.scaled import scaled

FILE = "mlperf_inference_runs.csv"
BAR = 0.20  # of the median of |predicted / measured - 1|
MODELS = {"llama2-70b": "llama-2-70b", "mixtral-8x7b": "mixtral-8x7b"}
DEVICES = {  # how accelerators begin -> the catalogue's name
    "NVIDIA B200-SXM-180GB": "b200-sxm",
    "NVIDIA H100-NVL": "h100-nvl",
    "NVIDIA H100-PCIe": "h100-pcie",
    "NVIDIA H100-SXM": "h100-sxm",
    "NVIDIA H200-SXM": "h200-sxm",
    "AMD Instinct MI300X": "mi300x",
    "AMD MI300X": "mi300x",
}
# What results do not tell. Declared weights are no guide: NVIDIA's engines ran FP8 on Hopper and FP4 on Blackwell.
WEIGHTS = {"b200-sxm": "nvfp4"}
OTHERWISE = "fp8"
# The software of that summer was older than any that was measured by itself: the oldest generation that was stands for it.
GENERATIONS = {"trtllm": "0.14", "vllm": ""}
PREFILL_FIRST = re.compile(r"vLLM 0\.[0-7]\.")  # before chunked prefill was the default
DEGREES = (1, 2, 4, 8)
PLACES = 2048  # sequences at once, or fewer where requests would lose their memory
LOST_FRAC = 0.01  # of requests
STEP_S = 300.0  # to which lengths of runs are rounded
# Systems that say nothing of their hardware's rate
ASIDE = {
    "MaxQ": "runs under a power limit that is not published",
    "reference": "runs the reference implementation, untuned",
    "Pruned": "another model",
    "Sparse": "another model",
}
ROUTER = "shortest-queue"
Row = Mapping[str, str]


class Place(NamedTuple):
    """What a prediction knows of a system."""

    model: str
    device: str
    devices: int
    nodes: int
    engine: str
    prefill_first: bool
    run_s: float  # how long the Offline run took


class Rates(NamedTuple):
    """Samples/s in both scenarios and the degree of tensor parallelism that reached them; NaN: not known."""

    server: float
    offline: float
    server_degree: int = 0
    offline_degree: int = 0


class Result(NamedTuple):
    """A system of a submitter, measured and predicted."""

    submitter: str
    name: str
    place: Place
    measured: Rates
    predicted: Rates


def main(arguments: Sequence[str]) -> int:
    paths = [text for text in arguments if not text.startswith("-")]
    if len(paths) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    results = list(measured(Path(paths[0]) / FILE))
    if "--by" in arguments:
        for one in sorted(results, key=lambda one: (one.place, one.submitter)):
            show(one)
    print(f"{'systems':34} n   Server: median error, ratio   Offline: ratio   Server/Offline: predicted, measured")
    for title, own in groups(results):
        line(title, own)
    error = float(np.median([abs(one.predicted.server / one.measured.server - 1.0) for one in results]))
    print(f"largest sustained rate: median error {error:.1%}, bar {BAR:.0%}: {'met' if error <= BAR else 'MISSED'}")
    return 0 if error <= BAR else 1


def measured(path: Path) -> Iterator[Result]:
    """Every system once, with its prediction; what is left out is said."""
    runs: dict[tuple[str, ...], dict[str, Row]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            model = re.sub(r"-99(\.9)?$", "", row["model"])
            runs.setdefault((row["round"], row["submitter"], row["system"], model), {}).setdefault(row["scenario"], row)
    left: dict[str, int] = {}
    for (_, submitter, name, model), own in runs.items():
        server = own.get("Server")
        if server is None:
            continue
        place, why = placed(name, model, own.get("Offline", server))
        if place is None:
            left[why] = left.get(why, 0) + 1
            continue
        rate = (
            float(server["scheduled_samples_per_s"] or server["samples_per_s"]),
            float(own["Offline"]["samples_per_s"] or "nan") if "Offline" in own else np.nan,
        )
        yield Result(submitter, name, place, Rates(*rate), predicted(place))
    for why, count in left.items():
        print(f"left out: {count} systems: {why}")


def placed(name: str, model: str, row: Row) -> tuple[Place | None, str]:
    """Where a run took place, or why nothing is predicted for it."""
    if model not in MODELS:
        return None, f"{model}: answers are searched with four beams, which the simulator has not"
    for part, why in ASIDE.items():
        if part in name:
            return None, why
    device = next((slug for start, slug in DEVICES.items() if row["accelerator"].startswith(start)), None)
    if device is None:
        return None, f"no device for {row['accelerator'][:40] or 'a CPU'}"
    nodes = int(row["nodes"])
    return Place(
        model=MODELS[model],
        device=device,
        devices=int(float(row["accel_per_node"])) * nodes,
        nodes=nodes,
        engine="vllm" if "vLLM" in row["framework"] else "trtllm",
        prefill_first=bool(PREFILL_FIRST.search(row["framework"])),
        run_s=STEP_S * round(float(row["lat_p99_ns"]) * 1e-9 / STEP_S) if row["scenario"] == "Offline" else 0.0,
    ), ""


@cache
def predicted(place: Place) -> Rates:
    """The best of all degrees of tensor parallelism in both scenarios."""
    found = [(degree, *rates) for degree in DEGREES if (rates := tried(place, degree))]
    by_server, by_offline = (max(found, key=lambda one: one[at]) for at in (1, 2))
    return Rates(by_server[1], by_offline[2], by_server[0], by_offline[0])


def tried(place: Place, degree: int) -> tuple[float, float] | None:
    """Samples/s in Server and Offline with copies of so many devices; None where they do not fit."""
    if (place.devices // place.nodes) % degree:
        return None
    lengths = f"mlperf-{place.model}"
    first = named("mlperf-offline", lengths=lengths)
    mean, longest = lengths_of(first)
    try:
        made = system(scenario(place, degree))
        fleet = workers.replicas(
            made, mean_tokens=mean, longest_tokens=longest, economics=Money().economics(made.cluster.device)
        )
    except GemmstoneError:
        return None
    options = scheduled(Options(router=ROUTER), made, mean, "prefill-first" if place.prefill_first else "")
    run = serve(fleet, first, options)
    if run.totals.preemptions > LOST_FRAC * first.count:
        held = int(max(run.totals.series.running) / len(fleet) * (1.0 - LOST_FRAC))
        limits = fleet[0].limits
        room = int(limits.total_blocks * limits.block_size / mean)
        fewer = replace(fleet[0], limits=replace(limits, max_num_seqs=min(held, room)))
        again = serve([fewer] * len(fleet), first, options)
        if again.totals.duration_s < run.totals.duration_s:
            fleet, run = [fewer] * len(fleet), again
    most = first.count / run.totals.duration_s
    if place.run_s * most > first.count:
        longer = named("mlperf-offline", lengths=lengths, requests=round(place.run_s * most))
        most = longer.count / serve(fleet, longer, options).totals.duration_s
    traffic = scaled("mlperf-server", Asked(requests=round(LEAST_S * most), settings={"lengths": lengths}))
    found = capacity.sustained(fleet, traffic, MLPERF[place.model].targets, options=options, guess_per_s=most)
    return found.rate_per_s, most


def scenario(place: Place, degree: int) -> Scenario:
    """A system with copies of so many devices."""
    choice = Choice(
        weights=WEIGHTS.get(place.device, OTHERWISE),
        kv_cache="fp8",
        tensor_parallel=degree,
        data_parallel=place.devices // degree,
        max_num_seqs=PLACES,
        engine_version=GENERATIONS[place.engine],
    )
    return Scenario(
        model=place.model, hardware=place.device, num_devices=place.devices, engine=place.engine, choice=choice
    )


def groups(results: Sequence[Result]) -> Iterator[tuple[str, list[Result]]]:
    """The results of each device and model, and together."""
    for key in sorted({(one.place.model, one.place.engine, one.place.device) for one in results}):
        own = [one for one in results if (one.place.model, one.place.engine, one.place.device) == key]
        yield " ".join(key), own
    yield "all", list(results)


def line(title: str, own: Sequence[Result]) -> None:
    """Errors and ratios of a group; of ratios the median and, in brackets, the range."""
    server = np.array([one.predicted.server / one.measured.server for one in own])
    offline = np.array([one.predicted.offline / one.measured.offline for one in own])
    share = np.array([[rates.server / rates.offline for rates in (one.predicted, one.measured)] for one in own])
    print(
        f"{title:34} {len(own):2d} {np.median(np.abs(server - 1)):12.1%} {spread(server):>20} {spread(offline):>18}"
        f" {np.nanmedian(share[:, 0]):14.2f} {np.nanmedian(share[:, 1]):10.2f}"
    )


def spread(ratios: np.ndarray) -> str:
    return f"{np.nanmedian(ratios):.2f} ({np.nanmin(ratios):.2f}-{np.nanmax(ratios):.2f})"


def show(one: Result) -> None:
    """One system."""
    place, known, found = one.place, one.measured, one.predicted
    print(
        f"{place.model:12} {place.devices:3d} x {place.device:9} {one.submitter[:12]:12} {one.name[:36]:36}"
        f" Server {known.server:6.1f} -> {found.server:6.1f} ({found.server / known.server:.2f}, tp {found.server_degree})"
        f"  Offline {known.offline:6.1f} -> {found.offline:6.1f} ({found.offline / known.offline:.2f}, tp {found.offline_degree})"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

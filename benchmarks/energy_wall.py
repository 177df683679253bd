"""How wrong the power at the wall is: servers left out of the fit, training nodes, power supplies, and whether bounds hold.

python benchmarks/energy_wall.py TABLES
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gemmstone.calibrate import node as fit
from gemmstone.catalog import device_files
from gemmstone.core.errors import BadRequest
from gemmstone.predict import node

# What this version has to stay under, and the share of rows that has to lie between idle and full devices.
HELD_OUT_MEAN, HELD_OUT_MAX, TRAINING_MAX = 0.04, 0.08, 0.05
BETWEEN_SHARE = 0.9
# Spellings of MLPerf's tables that are no device's name here.
SPELLED = {
    "NVIDIA A100-PCIe-80GB": "a100-pcie-80gb",
    "NVIDIA A100-SXM-80GB": "a100-sxm-80gb",
    "NVIDIA A100-SXM4-40GB": "a100-sxm-40gb",
    "NVIDIA A2": "a2",
    "NVIDIA A30": "a30",
    "NVIDIA H100-PCIe-80GB": "h100-pcie",
    "NVIDIA H100-SXM-80GB": "h100-sxm",
    "NVIDIA H200-SXM-141GB": "h200-sxm",
    "NVIDIA L4": "l4",
}


def servers(directory: Path) -> bool:
    """Wall power of servers under a power limit, each left out of the fit; whether the bars hold."""
    every, kept = fit.metered(directory), True
    runs = fit.limited(every)
    for name, runs_of, terms in (
        ("processors known", runs, fit.known_terms),
        ("processors unknown, on a baseboard", fit.on_boards(every), fit.board_terms),
    ):
        found = fit.holdout(runs_of, terms)
        print(
            f"servers left out, {name}: {len(runs_of)} runs, median {found['holdout_median']:.1%}, "
            f"mean {found['holdout_mean']:.1%}, largest {found['holdout_max']:.1%}"
        )
        for system, error in found["by_system"].items():
            print(f"    {error:+7.1%}  {system}")
        kept &= found["holdout_mean"] <= HELD_OUT_MEAN and found["holdout_max"] <= HELD_OUT_MAX
    known = fit.solved(runs, fit.known_terms)
    cards = fit.cards(every, known[0])
    print(
        f"servers of cards, processors unknown: {cards['server_w']} W beyond the cards, off by {cards['holdout_rms_w']} W (rms)"
    )
    for system, watts in cards["by_system"].items():
        print(f"    {watts:5} W  {system}")
    before = [abs(run.devices_w * 10.2 / 5.6 / run.wall_w - 1.0) for run in runs]
    print(f"one factor for all, 10.2 kW / 5.6 kW: mean {np.mean(before):.1%}, largest {np.max(before):.1%}")
    return kept


def per_sample(directory: Path) -> None:
    """Joules of a sample at the measured rate, devices at their published limit, server left out of the fit."""
    every, rows = fit.metered(directory), fit._rows(fit.SYSTEMS)
    logs = {(row["system"], row["model"], row["scenario"]): row for row in fit._rows(directory / fit.LOGS)}
    for run, row in zip(every, rows, strict=True):
        measured = logs.get((row["system"], row["model"], row["scenario"]))
        if measured is None or row["round"] != measured["round"]:
            continue
        known = fit.solved((r for r in fit.limited(every) if r.system != run.system), fit.known_terms)
        joules = float(np.dot(known, fit.known_terms(run))) / float(measured["samples_per_s"])
        published = float(measured["system_j_per_sample"])
        print(
            f"    {row['model']:16} {row['scenario']:8} {joules:8.1f} J a sample, measured {published:8.1f}, "
            f"{joules / published - 1.0:+.1%}"
        )


def training(directory: Path) -> bool:
    """Mean power of training nodes, the share of the TDP taken from the other runs; whether long runs stay under the bar."""
    efficiency = fit.supply_efficiency(directory)["median"]
    known = fit.solved(fit.limited(fit.metered(directory)), fit.known_terms)
    groups: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in fit._rows(directory / fit.METERS):
        if row["submitter"] in fit.TRAINED and row["kind"] == "node":
            key = (row["submitter"], row["system"], row["benchmark"])
            groups.setdefault(key, []).append((float(row["power_mean_w"]), float(row["duration_s"])))
    shares = {
        key: fit.device_share(float(np.mean([watts for watts, _ in found])), key[0], known, efficiency)
        for key, found in groups.items()
    }
    long = {key for key, found in groups.items() if np.median([seconds for _, seconds in found]) >= fit.LONG_RUN_S}
    kept = True
    print("training nodes, share of the TDP from the other long runs:")
    for key, found in groups.items():
        slug, devices, processors_w, fans = fit.TRAINED[key[0]]
        tdp_w = devices * float(device_files.find(slug).tdp_w or 0.0)
        share = float(np.median([shares[other] for other in long if other != key]))
        marginal = known[0] if fans else 1.0 / efficiency
        predicted = marginal * share * tdp_w + known[1] * tdp_w + known[2] * processors_w
        measured = float(np.mean([watts for watts, _ in found]))
        error = predicted / measured - 1.0
        note = "" if key in long else "  short: half of it is start-up"
        print(
            f"    {error:+7.1%}  {key[1]} {key[2]}: {predicted:,.0f} W, measured {measured:,.0f} W, "
            f"devices at {shares[key]:.0%} of their TDP{note}"
        )
        kept &= key not in long or abs(error) <= TRAINING_MAX
    return kept


def rows_with_power(directory: Path) -> Iterator[tuple[str, str, float, float]]:
    """Name, device, devices and watts at the wall of every run of MLPerf Inference whose devices are in the catalogue."""
    with (directory / fit.SUMMARY).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            slug = SPELLED.get(row["hardware"])
            if slug and row["scenario"] in ("Offline", "Server") and row["power_value"]:
                name = dict(part.partition("=")[::2] for part in row["notes"].split(";"))["system"]
                yield (
                    f"{row['dataset'][-4:]} {name} {row['model']}",
                    slug,
                    float(row["n_devices"]),
                    float(row["power_value"]),
                )


def between(directory: Path) -> bool:
    """Whether servers of unknown limits draw more than idle and less than full devices would make them."""
    inside, outside = 0, []
    for name, slug, devices, watts in rows_with_power(directory):
        device = device_files.find(slug)
        full = np.array([device.idle_w or 0.0, device.tdp_w or 0.0])
        low, high = devices * node.wall(device, full, devices=devices).power_w
        slack = 1.0 + node.error_frac(device, devices)
        if low / slack <= watts <= high * slack:
            inside += 1
        else:
            outside.append(f"    {name}: {watts:.0f} W, {low:.0f} to {high:.0f}")
    print(f"runs between idle and full devices: {inside} of {inside + len(outside)}")
    print(*outside, sep="\n")
    return inside >= BETWEEN_SHARE * (inside + len(outside))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    try:
        kept = servers(directory)
        print("joules of a sample at the measured rate, server left out:")
        per_sample(directory)
        kept &= training(directory)
        efficiency = fit.supply_efficiency(directory)
        print(f"power supplies: {efficiency['median']:.1%} of AC arrives, by run {efficiency['by_run']}")
        curve = fit.processor_curve(directory)
        print(
            f"processors by load, one left out: mean error {curve['holdout_mean_of_tdp']:.1%} of the TDP; "
            f"set aside: {', '.join(curve['set_aside_above_their_tdp'])}"
        )
        kept &= between(directory)
    except BadRequest as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("bars held" if kept else "a bar is broken")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

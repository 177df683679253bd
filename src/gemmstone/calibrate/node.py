"""What a server draws at the wall beside its devices, fitted on the wall meters of MLPerf.

python -m gemmstone.calibrate.node --from TABLES [--out FILE]

    wall = device x device_w + board x TDP of devices on one baseboard + processors x TDP of the host's processors

Device power is known in the runs under a power limit, which the submitters published (node_systems.csv, each row with its
source): there it is the limit. Hold-out leaves whole systems out. Where the processors are not known, they are part of the
board's share; servers of cards then have a power of their own, the median of what meters show beyond the cards, cards without
a known limit at three quarters of their TDP. Power supplies: the same runs metered at AC and at DC.

    processors of load l: P / TDP = idle + span (1 - (1 - l)^bend), on RAPL, one processor held out at a time
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.calibrate.tables import sha256_of
from gemmstone.catalog import device_files, node_power
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest, GemmstoneError

SYSTEMS = Path(__file__).with_name("node_systems.csv")
SUMMARY, LOGS = "energy_mlperf_inference_summary.csv", "energy_mlperf_inference_logs.csv"
METERS, PROCESSORS = "energy_mlperf_training_nodes.csv", "energy_cpu_load_rapl.csv"
UNKNOWN_OF_TDP = 0.75  # what cards without a known limit draw: 60 W at most where the server draws 300 W
LONG_RUN_S = 600.0  # shorter runs are half start-up, whose power is not that of training
# Sockets and TDP of the processors metered with RAPL (reference/cpu_tdp.csv; the sockets from their threads). A folder whose
# readings exceed the TDP of the processor that it names is no measurement of it.
METERED_TDP_W = {"AMD_Threadripper": 180.0, "E3-1240": 69.0, "E5-1240": 69.0, "E5-2620": 2 * 85.0}
MOST_OF_TDP = 1.1
BENDS = np.linspace(1.0, 4.0, 61)
# Training nodes of the meters: device, devices, TDP of the processors, whether fans cool them (systems/*.json of
# mlcommons/training_results_v4.0 and v4.1: smc stands in immersion cooling with 2 x Xeon 8462Y+, XE9680 has 2 x 8480+).
TRAINED = {"smc-ac-power": ("h100-sxm", 8, 600.0, False), "Dell": ("h100-sxm", 8, 700.0, True)}


@dataclass(frozen=True, kw_only=True)
class Metered:
    """A run on a server: what its devices drew, what they and its processors may draw at most, and the wall meter."""

    system: str
    devices_w: float
    devices_tdp_w: float
    baseboard: bool
    processors_tdp_w: float
    wall_w: float
    limited: bool = True  # whether what the devices draw is known


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gemmstone.calibrate.node", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--from", dest="directory", type=Path, required=True, help="directory of MLPerf's power tables")
    parser.add_argument("--out", type=Path, default=node_power.FILE, help="where the coefficients go")
    given = parser.parse_args()
    try:
        found = fit(given.directory)
    except GemmstoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(
        json.dumps(
            {name: found[name] for name in ("known_host", "unknown_host", "cards", "processors", "training")}, indent=1
        )
    )
    return 0


def fit(directory: Path) -> dict[str, Any]:
    """All coefficients with their hold-out errors, and the hashes of the tables they come from."""
    every = metered(directory)
    runs, boards = limited(every), on_boards(every)
    efficiency = supply_efficiency(directory)
    coefficients = solved(runs, known_terms)
    names = (SUMMARY, LOGS, METERS, PROCESSORS)
    return {
        "inputs": {name: sha256_of(directory / name) for name in names},
        "systems": sha256_of(SYSTEMS),
        "runs": len(runs),
        "known_host": {
            **dict(zip(("device", "board", "processors"), coefficients, strict=True)),
            **holdout(runs, known_terms),
        },
        "unknown_host": {
            **dict(zip(("device", "board"), solved(boards, board_terms), strict=True)),
            **holdout(boards, board_terms),
        },
        "cards": cards(every, coefficients[0]),
        "supply_efficiency": efficiency,
        "processors": processor_curve(directory),
        "training": training(directory, coefficients, efficiency["median"]),
    }


def metered(directory: Path) -> list[Metered]:
    """The runs of node_systems.csv with what the tables measured for them. Raises BadRequest where one is missing."""
    walls = _walls(directory)
    found = []
    for row in _rows(SYSTEMS):
        key = (row["round"], row["system"], row["model"], row["scenario"])
        if key not in walls:
            raise BadRequest(f"{directory} has no wall power of {' '.join(key)}")
        device = device_files.find(row["device"])
        count = float(row["num_devices"])
        found.append(
            Metered(
                system=f"{row['submitter']} {row['system']}",
                devices_w=count * float(row["device_limit_w"] or UNKNOWN_OF_TDP * float(device.tdp_w or 0.0)),
                devices_tdp_w=count * float(device.tdp_w or 0.0),
                baseboard=row["baseboard"] == "1",
                processors_tdp_w=float(row["processors_w"] or 0.0),
                wall_w=walls[key],
                limited=bool(row["device_limit_w"]),
            )
        )
    return found


def _walls(directory: Path) -> dict[tuple[str, ...], float]:
    """Round, system, model and scenario -> watts at the wall."""
    found: dict[tuple[str, ...], float] = {
        (row["round"], row["system"], row["model"], row["scenario"]): float(row["avg_system_power_w"])
        for row in _rows(directory / LOGS)
    }
    for row in _rows(directory / SUMMARY):
        if row["scenario"] in ("Offline", "Server") and row["power_value"]:
            notes = dict(part.partition("=")[::2] for part in row["notes"].split(";"))
            found[row["dataset"][-4:], notes["system"], row["model"], row["scenario"]] = float(row["power_value"])
    return found


def limited(runs: Iterable[Metered]) -> list[Metered]:
    """The runs whose devices were under a known limit."""
    return [run for run in runs if run.limited]


def on_boards(runs: Iterable[Metered]) -> list[Metered]:
    """The runs on servers with a baseboard."""
    return [run for run in runs if run.limited and run.baseboard]


def known_terms(run: Metered) -> tuple[float, ...]:
    """What the wall's power is made of where the processors are known."""
    return run.devices_w, run.devices_tdp_w * run.baseboard, run.processors_tdp_w


def board_terms(run: Metered) -> tuple[float, ...]:
    """The same of a server with a baseboard whose processors are not known."""
    return run.devices_w, run.devices_tdp_w


def cards(runs: Iterable[Metered], device: float) -> dict[str, Any]:
    """What servers of cards draw beyond `device` watts a watt of their cards: the median, its spread, and each server's."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if not run.baseboard:
            found.setdefault(run.system, []).append(run.wall_w - device * run.devices_w)
    means = {name: round(float(np.mean(part))) for name, part in sorted(found.items())}
    values = np.array(list(means.values()), dtype=float)
    others = [float(np.median(np.delete(values, i))) for i in range(len(values))]
    return {
        "server_w": round(float(np.median(values))),
        "holdout_rms_w": round(float(np.sqrt(np.mean((values - others) ** 2)))),
        "by_system": means,
    }


Terms = Callable[[Metered], tuple[float, ...]]


def solved(runs: Iterable[Metered], terms: Terms) -> list[float]:
    """Coefficients of the terms by least squares of relative errors, every system counting alike."""
    runs = list(runs)
    systems = [run.system for run in runs]
    weights = np.array([1.0 / run.wall_w / np.sqrt(systems.count(run.system)) for run in runs])
    matrix = np.array([terms(run) for run in runs]) * weights[:, None]
    found, *_ = np.linalg.lstsq(matrix, np.array([run.wall_w for run in runs]) * weights, rcond=None)
    if np.any(found <= 0):
        raise BadRequest(f"the power of a node comes out as {found}: every term has to be positive")
    return [float(f"{value:.4g}") for value in found]


def holdout(runs: list[Metered], terms: Terms) -> dict[str, Any]:
    """Errors on systems that the coefficients have not seen, with the mean of each system."""
    errors: dict[str, list[float]] = {}
    for system in sorted({run.system for run in runs}):
        found = solved((run for run in runs if run.system != system), terms)
        errors[system] = [float(np.dot(found, terms(run)) / run.wall_w - 1.0) for run in runs if run.system == system]
    every = np.abs(np.concatenate([np.asarray(part) for part in errors.values()]))
    return {
        "holdout_median": round(float(np.median(every)), 4),
        "holdout_mean": round(float(np.mean(every)), 4),
        "holdout_max": round(float(np.max(every)), 4),
        "by_system": {name: round(float(np.mean(part)), 4) for name, part in errors.items()},
    }


def supply_efficiency(directory: Path) -> dict[str, Any]:
    """DC over AC of the same nodes in the same runs: the median over benchmarks and systems, and each."""
    powers: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in _rows(directory / METERS):
        if row["submitter"].startswith("smc-"):
            side = powers.setdefault((row["system"], row["benchmark"]), {})
            side.setdefault(row["submitter"], []).append(float(row["power_mean_w"]))
    ratios = {
        f"{system} {benchmark}": round(float(np.mean(side["smc-dc-power"]) / np.mean(side["smc-ac-power"])), 4)
        for (system, benchmark), side in sorted(powers.items())
        if len(side) == 2
    }
    if not ratios:
        raise BadRequest(f"{METERS} has no runs metered at AC and DC")
    return {"median": round(float(np.median(list(ratios.values()))), 4), "by_run": ratios}


def processor_curve(directory: Path) -> dict[str, Any]:
    """Package power of a processor over its TDP against load, with the error on a processor left out."""
    samples: dict[str, list[tuple[float, float]]] = {}
    for row in _rows(directory / PROCESSORS):
        tdp_w = METERED_TDP_W[row["cpu_dir"]]
        samples.setdefault(row["cpu_dir"], []).append(
            (float(row["cpu_load"]) / 100.0, float(row["rapl_power"]) / tdp_w)
        )
    refused = sorted(name for name, part in samples.items() if max(share for _, share in part) > MOST_OF_TDP)
    kept = {name: np.array(part) for name, part in samples.items() if name not in refused}
    errors = []
    for name, part in kept.items():
        idle, span, bend = _curve(np.concatenate([other for key, other in kept.items() if key != name]))
        errors.append(np.abs(idle + span * (1.0 - (1.0 - part[:, 0]) ** bend) - part[:, 1]))
    idle, span, bend = _curve(np.concatenate(list(kept.values())))
    return {
        "idle": round(idle, 4),
        "span": round(span, 4),
        "bend": round(bend, 3),
        "holdout_mean_of_tdp": round(float(np.mean(np.concatenate(errors))), 4),
        "processors": sorted(kept),
        "set_aside_above_their_tdp": refused,
    }


def _curve(samples: Array) -> tuple[float, float, float]:
    """Idle, span and bend of least squares; no processor draws less than nothing."""
    load, share = np.clip(samples[:, 0], 0.0, 1.0), samples[:, 1]
    best = (np.inf, 0.0, 0.0, 1.0)
    for bend in BENDS:
        shape = 1.0 - (1.0 - load) ** bend
        (idle, span), *_ = np.linalg.lstsq(np.stack([np.ones_like(shape), shape], axis=1), share, rcond=None)
        if idle < 0:
            idle, span = 0.0, float(np.dot(shape, share) / np.dot(shape, shape))
        best = min(best, (float(np.sum((idle + span * shape - share) ** 2)), float(idle), float(span), float(bend)))
    return best[1:]


def training(directory: Path, known: list[float], efficiency: float) -> dict[str, Any]:
    """Mean power of devices over their TDP in training runs, from the meters of nodes less what the host takes."""
    meters: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in _rows(directory / METERS):
        if row["submitter"] in TRAINED and row["kind"] == "node":
            key = (row["submitter"], row["system"], row["benchmark"])
            meters.setdefault(key, []).append((float(row["power_mean_w"]), float(row["duration_s"])))
    shares = {}
    for (submitter, system, benchmark), found in sorted(meters.items()):
        watts, seconds = np.array(found).T
        if np.median(seconds) >= LONG_RUN_S:
            shares[f"{system} {benchmark}"] = round(
                device_share(float(np.mean(watts)), submitter, known, efficiency), 4
            )
    if not shares:
        raise BadRequest(f"{METERS} has no training run of {LONG_RUN_S:g} s")
    return {"device_of_tdp": round(float(np.median(list(shares.values()))), 4), "by_run": shares}


def device_share(node_w: float, submitter: str, known: list[float], efficiency: float) -> float:
    """What part of their TDP the devices of a metered training node drew."""
    slug, devices, processors_w, fans = TRAINED[submitter]
    tdp_w = devices * float(device_files.find(slug).tdp_w or 0.0)
    device, board, processors = known
    marginal = device if fans else 1.0 / efficiency  # no fan turns faster in a bath
    return (node_w - board * tdp_w - processors * processors_w) / marginal / tdp_w


def _rows(path: Path) -> list[Mapping[str, str]]:
    if not path.is_file():
        raise BadRequest(f"{path} is missing: --from names the folder of MLPerf's power tables")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main())

"""What a server draws beside its devices: coefficients fitted on wall meters by gemmstone.calibrate.node (node_power.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("node_power.json")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Watts at the wall per watt of the devices and per watt of the TDP of devices on a baseboard.

    `error_frac` is the largest error on a system left out of the fit.
    """

    device: float
    board: float
    error_frac: float


@dataclass(frozen=True, kw_only=True)
class NodePower:
    """Coefficients for servers of known and unknown processors; what supplies deliver; processors by load; training.

    `processors` is watts at the wall per watt of the processors' TDP; a server of cards has server_w where they are not known;
    processor_error is the mean error of the curve on a processor left out of its fit, as a share of the TDP.
    """

    known: Terms
    unknown: Terms
    processors: float
    server_w: float
    server_error_w: float
    supply_efficiency: float
    processor_idle: float
    processor_span: float
    processor_bend: float
    processor_error: float
    training_of_tdp: float


@cache
def load() -> NodePower:
    """The shipped coefficients."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    known, unknown, curve = found["known_host"], found["unknown_host"], found["processors"]
    return NodePower(
        known=Terms(device=known["device"], board=known["board"], error_frac=known["holdout_max"]),
        unknown=Terms(device=unknown["device"], board=unknown["board"], error_frac=unknown["holdout_max"]),
        processors=known["processors"],
        server_w=found["cards"]["server_w"],
        server_error_w=found["cards"]["holdout_rms_w"],
        supply_efficiency=found["supply_efficiency"]["median"],
        processor_idle=curve["idle"],
        processor_span=curve["span"],
        processor_bend=curve["bend"],
        processor_error=curve["holdout_mean_of_tdp"],
        training_of_tdp=found["training"]["device_of_tdp"],
    )

"""Fitted numbers of training steps, one a device, in training_single_gpu.json (python -m gemmstone.calibrate.languini)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path

from gemmstone.core.training import TrainingFit

PATH = Path(__file__).parent / "training_single_gpu.json"
DIGITS = 4


@cache
def load() -> dict[str, TrainingFit]:
    """The shipped fits by device slug."""
    document = json.loads(PATH.read_text(encoding="utf-8"))
    return {
        row["device"]: TrainingFit(**{**row, "valid": {name: tuple(ends) for name, ends in row["valid"].items()}})
        for row in document["fits"]
    }


def blank(device: str) -> TrainingFit:
    """A fit of a device with nothing known, to be filled."""
    numbers = {item.name: 0.0 for item in fields(TrainingFit) if item.type == "float"}
    return TrainingFit(device=device, software="", rows=0, limits=0, **numbers)  # type: ignore[arg-type]


def write(fits: Sequence[TrainingFit], source: Path) -> None:
    """Replaces the shipped fits by others, fitted to the table `source`."""
    rows = [{name: _short(value) for name, value in asdict(fit).items()} for fit in fits]
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    document = {"inputs": {source.name: f"sha256:{digest}"}, "fits": rows}
    PATH.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _short(value: object) -> object:
    if not isinstance(value, float) or not value:
        return value
    return round(value, DIGITS - 1 - math.floor(math.log10(abs(value))))

"""NVIDIA boards through NVML: the counter of energy where there is one (Volta and newer), else watts of now.

Values are new every 100 ms (Yang, Adamek, Armour, "Part-time power measurements", arXiv:2312.02741, who found 20 ms on V100 and
100 ms on A100 and H100, and that the latter look at a fourth of the time only: work that repeats in step with that is seen wrong).
nvmlDeviceGetPowerUsage is a mean over a second on Ampere and newer (NVML API reference); NVML_FI_DEV_POWER_INSTANT is not.
"""

from __future__ import annotations

from typing import Any

from gemmstone.core.errors import MissingBackend
from gemmstone.measure import gpu
from gemmstone.measure.meters.window import Meter, Sensor, Unreadable

UPDATE_S, AVERAGED_S = 0.1, 1.0
MOST_W = 5000.0


def find(device: str) -> Meter:
    """The meter of an NVIDIA device called cuda:N. Raises MissingBackend with the reason where there is none."""
    if not device.startswith("cuda"):
        raise MissingBackend(f"NVML sees NVIDIA devices, not {device[:40]!r}")
    nvml = gpu.library()
    board = gpu.handle(nvml, device)
    name, read, counts, update_s = _sensor(nvml, board)
    mig = gpu.ask(nvml.nvmlDeviceGetMigMode, board)
    return Meter(
        name="nvml",
        device=device,
        scope="board",
        sensors=(Sensor(name, read, counts),),
        update_s=update_s,
        most_w=MOST_W,
        note="the whole board, with all instances on it" if mig and mig[0] else "",
    )


def _sensor(nvml: Any, board: Any) -> tuple[str, Any, bool, float]:
    """The first that answers: energy, watts of now, watts of the last second."""

    def energy_j() -> float:
        return float(_asked(nvml.nvmlDeviceGetTotalEnergyConsumption, board)) / 1e3

    def instant_w() -> float:
        field = _asked(nvml.nvmlDeviceGetFieldValues, board, [nvml.NVML_FI_DEV_POWER_INSTANT])[0]
        if field.nvmlReturn != nvml.NVML_SUCCESS:
            raise Unreadable("the device does not tell its power of now")
        return float(field.value.uiVal) / 1e3

    def average_w() -> float:
        return float(_asked(nvml.nvmlDeviceGetPowerUsage, board)) / 1e3

    why = ""
    for name, read, counts, update_s in (
        ("energy counter", energy_j, True, UPDATE_S),
        ("power", instant_w, False, UPDATE_S),
        ("power, a mean of one second", average_w, False, AVERAGED_S),
    ):
        try:
            read()
        except Unreadable as error:
            why = str(error)
        else:
            return name, read, counts, update_s
    raise MissingBackend(f"the device has no meter: {why}")


def _asked(question: Any, *arguments: Any) -> Any:
    try:
        return question(*arguments)
    except Exception as error:
        raise Unreadable(f"the device does not answer: {gpu.one_line(error)}") from error

"""All meters at once: the document of `measure power`, with a made-up machine."""

from __future__ import annotations

import json

import pytest

from gemmstone import api
from gemmstone.core.errors import BadRequest
from gemmstone.measure import meters, power
from gemmstone.measure.meters.window import Meter, Sensor
from gemmstone.report.power_text import print_power


def made_up(update_s: float = 1e-6, watts: float = 250.0) -> Meter:
    return Meter(
        name="nvml",
        device="cuda:0",
        scope="board",
        sensors=(Sensor("power", lambda: watts, counts=False),),
        update_s=update_s,
        most_w=1000.0,
        note="with all instances on it",
    )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[str, Meter | str]]]:
    """A machine with the model of a processor that is refused and one GPU."""
    found: dict[str, list[tuple[str, Meter | str]]] = {
        "cpu": [("rapl", "only root may read RAPL")],
        "cuda:0": [("nvml", made_up()), ("amdsmi", "AMD SMI needs the package amdsmi")],
        "cuda:1": [("nvml", "cuda:1: NVML sees 1 devices")],
    }
    monkeypatch.setattr(meters, "looked", lambda device: found[device])
    return found


def test_every_device_is_looked_at(machine: dict[str, list[tuple[str, Meter | str]]]) -> None:
    assert power.devices() == ["cpu", "cuda:0"]
    machine["cuda:0"] = [("nvml", "no NVIDIA driver answers here")]
    assert power.devices() == ["cpu", "cuda:0"]  # to be told why


def test_without_time_there_is_no_reading(machine: dict[str, list[tuple[str, Meter | str]]]) -> None:
    found = power.readings()
    assert [(row["device"], row["meter"], row["here"]) for row in found["meters"]] == [
        ("cpu", "rapl", False),
        ("cuda:0", "nvml", True),
        ("cuda:0", "amdsmi", False),
    ]
    assert "mean_w" not in found["meters"][1]
    assert found["meters"][1]["shortest_s"] == pytest.approx(2e-5)


def test_readings_are_of_the_same_time(machine: dict[str, list[tuple[str, Meter | str]]]) -> None:
    slept: list[float] = []
    # a meter of ends alone: what a thread reads depends on who else runs
    shown = iter([0.0, 1e-3])
    counting = Meter(
        name="nvml",
        device="cuda:0",
        scope="board",
        sensors=(Sensor("energy", lambda: next(shown)),),
        update_s=1e-9,
        most_w=1e6,
    )
    machine["cuda:0"] = [("nvml", counting)]
    (row,) = power.readings("cuda:0", 3.0, sleep=slept.append)["meters"]
    assert slept == [3.0]
    assert row["why"] == ""
    assert row["energy_j"] == 1e-3
    assert row["mean_w"] == pytest.approx(1e-3 / row["window_s"])


def test_a_refused_window_says_why_and_has_no_number(
    machine: dict[str, list[tuple[str, Meter | str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    machine["cuda:0"] = [("nvml", made_up(update_s=3600.0))]
    document = power.readings("", 3.0, sleep=lambda seconds: None)
    row = document["meters"][1]
    assert (row["mean_w"], row["energy_j"]) == (None, None)
    assert "is too short, 20 h are needed for 5%" in row["why"]
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    print_power(document)
    shown = capsys.readouterr().out
    assert "refused" in shown
    assert "rapl of cpu: only root may read RAPL" in shown
    assert "with all instances on it" in shown


def test_what_cannot_be_read_is_refused() -> None:
    for seconds in (-1.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(BadRequest, match="a reading takes 0 s to a day"):
            power.readings("", seconds)
    with pytest.raises(BadRequest, match="called cpu and cuda:N, not 'tpu'"):
        power.readings("tpu", 0.0)


def test_the_document_has_its_schema() -> None:
    found = api.measure_power(device="cpu")
    assert found["schema"] == "gemmstone/measure/1"
    assert found["what"] == "power"
    assert found["meters"][-1]["source"] == "modelled"

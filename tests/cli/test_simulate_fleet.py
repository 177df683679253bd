"""gemmstone simulate with fleets that change: what the options do, and what half a question is told."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gemmstone.cli.main import app
from gemmstone.core.errors import BadRequest

SMALL = [
    "simulate",
    "llama-3.1-8b",
    "--on",
    "1xh100-sxm",
    "--rate",
    "30",
    "--requests",
    "600",
    "--input",
    "256",
    "--output",
    "64",
]


def answer(*more: str) -> dict:
    done = CliRunner().invoke(app, [*SMALL, *more, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_an_autoscaled_fleet_pays_for_what_is_up():
    found = answer(
        *("--max-replicas", "4", "--autoscale", "target:metric=concurrency,value=5,interval=2s", "--startup", "3s"),
        *("--router", "least-work", "--price", "3.6USD/h"),
    )
    assert found["fleet"]["autoscaler"]["name"] == "target"
    assert found["metrics"]["completed"] == 600
    up_s = [one["up_s"] for one in found["replicas"]]
    assert up_s[0] == found["metrics"]["duration_s"] > up_s[1] > 0.0
    assert found["metrics"]["cost_usd"] == pytest.approx(sum(one["paid_s"] for one in found["replicas"]) * 0.001)
    assert min(found["series"]["replicas_up"]) == 1.0 < max(found["series"]["replicas_up"])


def test_failures_from_a_file(tmp_path):
    path = tmp_path / "failures.csv"
    path.write_text("time_s,replica\n5,0\n")
    found = answer("--replicas", "2", "--failures", str(path), "--repair-time", "4s")
    assert found["metrics"]["completed"] == 600
    assert found["metrics"]["failures"] == 1
    assert found["replicas"][0]["up_s"] == pytest.approx(found["metrics"]["duration_s"] - 4.0)


def test_two_kinds_of_hardware_behind_one_router():
    found = answer("--on", "1xh100-sxm+1xa100-sxm-80gb", "--router", "least-work")
    assert found["hardware"] == "1xh100-sxm + 1xa100-sxm-80gb"
    assert [one["name"] for one in found["replicas"]] == ["h100-sxm", "a100-sxm-80gb"]
    assert found["replicas"][0]["requests"] > found["replicas"][1]["requests"] > 0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--autoscale", "hpa"), "unknown autoscaler"),
        (("--min-replicas", "2"), "--autoscale"),
        (("--startup", "90s"), "come and go"),
        (("--mtbf", "30d"), "--repair-time"),
        (("--mtbf", "0s", "--repair-time", "1s"), "above 0"),
        (("--mtbf", "soon", "--repair-time", "1s"), "--mtbf"),
        (("--repair-time", "1s"), "--mtbf"),
        (("--failures", "/nowhere.csv"), "cannot read"),
        (("--autoscale", "target", "--min-replicas", "3", "--max-replicas", "2"), "cannot be"),
        (("--on", "1xh100-sxm+nothing"), "nothing"),
    ],
)
def test_half_a_question_is_told_its_other_half(more, says):
    with pytest.raises(BadRequest, match=says):
        CliRunner().invoke(app, [*SMALL, *more], catch_exceptions=False)

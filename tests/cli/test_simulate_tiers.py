"""gemmstone simulate with places for prefixes behind the device."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from gemmstone.cli.main import app
from gemmstone.core.errors import BadRequest

TRAFFIC = ["--traffic", "mooncake-conversation", "--rate", "0.7", "--requests", "400"]


def answer(*more: str) -> dict:
    asked = ["simulate", "llama-3-8b", "--on", "h100-sxm", *TRAFFIC, *more, "--json"]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_host_memory_finds_more_prefixes() -> None:
    alone, behind = (answer(*more)["metrics"] for more in ((), ("--host-cache", "512GB")))
    assert behind["prefix_hit_frac"] > alone["prefix_hit_frac"] + 0.05
    assert behind["ttft_s"]["mean"] < alone["ttft_s"]["mean"]


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--drive-cache=4TB", "--set storage.bandwidth=7GB/s"),
        ("--host-cache=-1GB", "between 0 and 1e+18 bytes"),
        ("--host-cache=much", "not a quantity"),
    ],
)
def test_a_place_that_cannot_be_is_refused_in_one_line(option: str, complaint: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(complaint)):
        answer(option)

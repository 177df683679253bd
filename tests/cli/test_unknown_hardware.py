"""What no source gives is asked for, never guessed; what is given then answers."""

from __future__ import annotations

import pytest

ASK = ("predict", "llama-3.1-8b", "--input", "256", "--output", "32", "--weights", "fp16", "--engine", "generic")


class TestUnknownHardware:
    @pytest.mark.parametrize(
        ("device", "missing", "given"),
        [
            (
                "dimensity-9400",
                "compute.peak",
                ("--set", "compute.peak.fp16=2TFLOP/s", "--set", "memory.capacity=24GB"),
            ),
            ("ascend-910b", "memory.bandwidth", ("--set", "memory.bandwidth=1.6TB/s")),
        ],
    )
    def test_an_unknown_value_is_refused_with_the_set_that_mends_it(self, gemmstone, device, missing, given):
        for verb in (ASK, ("plan", "llama-3.1-8b", "--input", "256", "--output", "32")):
            refused = gemmstone(*verb, "--on", device)
            assert refused.code == 2
            (line,) = refused.err.splitlines()
            assert f"no source gives {missing}" in line
            assert f"--set {missing}" in line
        answered = gemmstone(*ASK, "--on", device, *given)
        assert (answered.code, answered.err) == (0, "")

    def test_the_catalogue_says_what_is_not_known_and_how_a_value_came_about(self, gemmstone):
        assert "no source gives memory.bandwidth" in gemmstone("catalog", "devices", "ascend-910b").out
        shown = " ".join(gemmstone("catalog", "devices", "epyc-9654").out.split())
        assert "96 cores x 32 FLOP a clock x 2.4 GHz" in shown

    def test_an_unknown_link_is_refused_with_the_set_that_mends_it(self, gemmstone):
        refused = gemmstone(*ASK, "--on", "sn40l-8", "--tp", "8")
        assert refused.code == 2
        (line,) = refused.err.splitlines()
        assert "--set link.scale_up.bandwidth" in line
        assert gemmstone(*ASK, "--on", "sn40l-8", "--dp", "8").code == 0

    @pytest.mark.parametrize("on", ["dgx-h100", "gb200-nvl72", "cloudmatrix384", "4xdgx-h100"])
    def test_systems_are_predicted_and_planned(self, gemmstone, on):
        devices = {"dgx-h100": 8, "gb200-nvl72": 72, "cloudmatrix384": 384, "4xdgx-h100": 32}[on]
        answer = gemmstone(
            *ASK, "--on", on, "--tp", "1", "--dp", str(devices), "--concurrency", "512", "--json"
        ).document
        assert answer["hardware"].startswith(f"{devices}x")
        if devices <= 72:
            plan = gemmstone(
                "plan", "llama-3.1-8b", "--on", on, "--input", "256", "--output", "32", "--top", "1", "--json"
            )
            assert plan.code == 0
            assert plan.document["best"]["hardware"].startswith(f"{devices}x")

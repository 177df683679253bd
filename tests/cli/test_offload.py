"""Offloading on the command line: what is refused says what helps, and what helps works."""

from __future__ import annotations

import json

import pytest

HOST = ("--set", "host.memory=256GB")
LOAD = ("--input", "512", "--output", "64")


def test_what_does_not_fit_names_what_does(gemmstone):
    refused = gemmstone("predict", "llama-3.1-70b", "--on", "h100-sxm", *HOST, *LOAD)
    assert refused.code == 1
    assert refused.problem.endswith("or --technique weight-offload")
    answered = gemmstone(
        "predict", "llama-3.1-70b", "--on", "h100-sxm", *HOST, *LOAD, "--technique", "weight-offload", "--json"
    )
    assert answered.code == 0
    found = json.loads(answered.out)
    assert found["bound"] == {"prefill": "host", "decode": "host"}
    (technique,) = found["deployment"]["techniques"]
    outside = next(part["bytes"] for part in found["host_memory"]["parts"] if part["name"] == "weights")
    assert outside == pytest.approx(technique["size_bytes"])


def test_cpu_offload_is_weight_offload(gemmstone):
    asked = ("predict", "llama-3.1-8b", "--on", "h100-sxm", *HOST, *LOAD, "--json")
    answers = [
        json.loads(gemmstone(*asked, *option).out)
        for option in (("--cpu-offload", "8GB"), ("--technique", "weight-offload:size_bytes=8GB"))
    ]
    assert answers[0]["deployment"] == answers[1]["deployment"]
    assert answers[0]["metrics"] == answers[1]["metrics"]


@pytest.mark.parametrize(
    ("technique", "known", "field"),
    [
        ("kv-offload", (), "host.memory"),
        ("weight-offload:size_bytes=8GB,tier=storage", (), "storage.bandwidth"),
        ("host-split:host_layers=4", HOST, "host.bandwidth"),
    ],
)
def test_a_value_that_nobody_gave_is_asked_for(gemmstone, technique, known, field):
    refused = gemmstone("predict", "llama-3.1-8b", "--on", "h100-sxm", *known, *LOAD, "--technique", technique)
    assert refused.code == 2
    assert f"--set {field}=" in refused.problem


def test_weights_go_to_a_host_of_unknown_size_with_a_warning(gemmstone):
    asked = ("predict", "llama-3.1-8b", "--on", "h100-sxm", *LOAD, "--cpu-offload", "8GB", "--json")
    unknown, known = gemmstone(*asked).document, gemmstone(*asked, *HOST).document
    assert unknown["metrics"] == known["metrics"]
    assert unknown["host_memory"]["bytes"] == pytest.approx(8e9)  # nothing left: nobody knows of more
    (note,) = set(unknown["warnings"]) - set(known["warnings"])
    assert "8.0 GB" in note
    assert "--set host.memory=" in note


def test_plan_says_what_would_fit_and_tries_what_it_is_given(gemmstone):
    asked = (
        "plan",
        "llama-3.1-70b",
        "--on",
        "h100-sxm",
        "--weights",
        "bf16",
        *HOST,
        *LOAD,
        "--slo",
        "tpot=5s",
        "--json",
    )
    refused = gemmstone(*asked)
    assert refused.code == 1
    assert "--technique weight-offload on 1xh100-sxm" in refused.problem
    answered = gemmstone(*asked, "--technique", "weight-offload")
    assert answered.code == 0
    found = json.loads(answered.out)
    assert [item["name"] for item in found["best"]["deployment"]["techniques"]] == ["weight-offload"]
    assert "--cpu-offload-gb" in json.dumps(found["launch"])
    assert found["sensitivity"]["link_bandwidth"]["tpot_s"] < -0.05

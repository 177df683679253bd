"""Closed loops simulated request by request and in formulas: two ways to the same engine, which may differ by what each leaves out.

The formulas take means over lengths and prompts evenly between steps; the simulation knows neither. Both read the same timer.
"""

from __future__ import annotations

import pytest

from gemmstone import api

LENGTHS = {"input_tokens": 1000, "output_tokens": 200}
SPREAD = 0.3
DEPLOYMENTS = {
    "tensor parallelism": ("llama-3.1-70b", "8xh100-sxm", api.Choice(tensor_parallel=8), 64),
    "two replicas": ("llama-3.1-70b", "8xh100-sxm", api.Choice(tensor_parallel=4, data_parallel=2), 64),
    "a pipeline": ("llama-3.1-70b", "8xh100-sxm", api.Choice(tensor_parallel=2, pipeline_parallel=4), 64),
    "a pipeline hardly in use": ("llama-3.1-70b", "8xh100-sxm", api.Choice(tensor_parallel=2, pipeline_parallel=4), 4),
    "experts": ("qwen3-30b-a3b", "2xh100-sxm", api.Choice(tensor_parallel=2), 48),
    "attention data parallelism": ("deepseek-v3", "8xh200-sxm", api.Choice(attention_dp=8, expert_parallel=8), 256),
    "one card": ("llama-3.1-8b", "rtx-4090", api.Choice(weights="fp8"), 16),
}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_closed_loops_agree(name):
    model, hardware, choice, in_flight = DEPLOYMENTS[name]
    scenario = api.Scenario(model=model, hardware=hardware, engine="vllm", choice=choice)
    work = api.Workload(**LENGTHS, length_spread=SPREAD, mode="concurrency", load=in_flight)
    formulas = {
        metric: found["value"]
        for metric, found in api.predict(api.Scenario(**{**vars(scenario), "workload": work}))["metrics"].items()
    }
    traffic = api.traffic("closed", in_flight=in_flight, requests=30 * in_flight, length_spread=SPREAD, **LENGTHS)
    simulated = api.simulate(scenario, traffic)["metrics"]
    assert simulated["tpot_s"]["mean"] == pytest.approx(formulas["tpot_s"], rel=0.15)
    # A run that begins and ends empty serves a little less than the steady state.
    assert simulated["requests_per_s"] == pytest.approx(formulas["requests_per_s"], rel=0.15)
    assert simulated["ttft_s"]["mean"] == pytest.approx(formulas["ttft_s"], rel=0.4)  # its queue is an approximation
    joules = simulated["energy_j"] / (simulated["output_tokens_per_s"] * simulated["duration_s"])
    assert joules == pytest.approx(formulas["energy_j_per_output_token"], rel=0.15)

"""Splitwise (arXiv:2311.18677): phases on machines of their own. Its table, its transfer, its clusters under Azure's traffic."""

from __future__ import annotations

import numpy as np
import pytest
import splitwise_fleet as fleet
import splitwise_table

from gemmstone.calibrate import phases
from gemmstone.core.deployment import Deployment
from gemmstone.core.hardware import Link
from gemmstone.graph.memory import kv_bytes_per_token
from gemmstone.simulate import step_tables
from gemmstone.simulate.scenario import load_model
from gemmstone.simulate.schedules.cache_transfer import layer_wise_s, tail_slope_s, whole_s

IB_A100 = Link(bandwidth_bytes_per_s=8 * 25e9, latency_s=fleet.TAIL_S["a100"])  # eight ports of 200 Gb/s


@pytest.mark.parametrize("key", list(splitwise_table.tables()), ids=lambda key: f"{key[0]} {key[1]} TP{key[2]}")
def test_all_eight_tables_are_fitted_and_what_cannot_be_is_named(key: tuple[str, str, int]) -> None:
    rows = splitwise_table.tables()[key]
    assert len(splitwise_table.tables()) == 8
    wrong = phases.suspicious(rows)
    kept = [row for number, row in enumerate(rows, start=1) if "prompts of" not in wrong.get(number, "")]
    assert (len(kept) < len(rows)) == (key[2] == 2)  # 64 x 512 tokens on two GPUs
    found = phases.fit(kept)
    assert found.token_error <= 0.06
    assert found.prompt_error <= 0.10
    nothing = [number for number, row in enumerate(rows, start=1) if row.power_frac == 0]
    assert (len(nothing) == len(rows)) == (key[1] == "h100")
    assert set(nothing) <= set(wrong)


def test_bytes_of_a_cache() -> None:
    """2 values x 2 bytes x layers x width: BLOOM keeps all of its 112 heads, Llama-2-70B 8 of 64."""
    run = Deployment(engine="generic")
    assert kv_bytes_per_token(load_model("bloom-176b"), run) == 2 * 2 * 70 * 14336
    assert kv_bytes_per_token(load_model("llama-2-70b"), run) == 2 * 2 * 80 * 1024


@pytest.mark.parametrize(("model", "layers"), [("bloom-176b", 70), ("llama-2-70b", 80)])
def test_the_tail_of_a_layer_wise_transfer_hardly_depends_on_the_prompt(model: str, layers: int) -> None:
    """From 512 to 4,096 tokens, with the times of the table; sent whole it grows with every token."""
    token_bytes = kv_bytes_per_token(load_model(model), Deployment(engine="generic"))
    tokens = np.array([512, 1024, 2048, 4096])
    prompt_s = fleet.looked_up("a100").prompt_s(tokens.astype(float))
    tails, wholes = (
        np.array([layer_wise_s(n * token_bytes, layers, s, IB_A100) for n, s in zip(tokens, prompt_s, strict=True)]),
        np.array([whole_s(n * token_bytes, IB_A100) for n in tokens]),
    )
    assert np.all(tails < IB_A100.latency_s * 1.16)
    slope = tail_slope_s(token_bytes, layers, 1.0, IB_A100)
    assert np.diff(tails) == pytest.approx(slope * np.diff(tokens), rel=1e-9)
    assert np.diff(wholes) == pytest.approx(layers * slope * np.diff(tokens), rel=1e-9)


def test_a_link_that_does_not_keep_up_adds_what_it_lacks() -> None:
    link = Link(bandwidth_bytes_per_s=1e9, latency_s=0.001)
    assert layer_wise_s(10e9, 10, 4.0, link) == pytest.approx(0.001 + 1.0 + 9 * 0.6)
    assert layer_wise_s(10e9, 1, 4.0, link) == whole_s(10e9, link)


def test_step_tables_of_measured_times_give_the_times() -> None:
    table, times = fleet.steps(fleet.fitted, "h100"), fleet.fitted("h100")
    context = fleet.MEAN_CONTEXT
    for sequences in (1, 7, 60):
        cached = sequences * context
        token = float(times.token_s(np.array(sequences), np.array(cached)))
        assert step_tables.step_s(table, sequences, cached, 0, 0.0) == pytest.approx(token, rel=1e-9)
    assert step_tables.step_s(table, 0, 0.0, 1500, 0.0) == pytest.approx(
        float(times.prompt_s(np.array(1500.0))), rel=0.01
    )
    mixed = fleet.MIXED * float(times.prompt_s(np.array(1560.0)))
    assert step_tables.step_s(table, 60, 60 * context, 1500, 0.0) == pytest.approx(mixed, rel=0.02)


def test_separate_machines_keep_tokens_at_pace_where_mixed_ones_do_not() -> None:
    """Beyond what the baseline sustains, its tokens wait for prompts; those of Splitwise-AA at equal power do not."""
    rate = 1.3 * fleet.base_rate(fleet.looked_up, "a100", 70)
    together = fleet.slowdowns(fleet.looked_up, fleet.baseline(fleet.looked_up, "a100", 70), rate)
    apart = fleet.slowdowns(fleet.looked_up, fleet.splitwise(fleet.looked_up, 45, 25), rate)
    assert together["tbt"][1] > fleet.TARGETS["tbt"][1] > apart["tbt"][1]
    assert apart["tbt"][2] < 1.05

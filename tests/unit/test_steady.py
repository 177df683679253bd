"""Serving in formulas, on an engine whose steps last what the test says: every answer is a sum a reader can check."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from gemmstone.core.calibration import EngineFit
from gemmstone.core.deployment import Deployment, Step, Workload
from gemmstone.core.estimate import Estimate
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, system
from gemmstone.simulate.steady import Steady, closed_loop, lengths, resident_tokens, static_batch

ENDLESS = 1e9  # slots


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A timer: a step lasts step_s, plus so much for each prompt token in it."""

    step_s: float = 0.010
    per_prompt_token_s: float = 0.0
    deployment: Deployment = Deployment(engine="generic", max_num_batched_tokens=1000)
    host: EngineFit = EngineFit()

    @property
    def start_s(self) -> float:
        return self.host.request_s

    def estimate(self, step: Step) -> Estimate:
        time = self.step_s + self.per_prompt_token_s * np.asarray(step.prefill_seqs * step.prefill_tokens, dtype=float)
        time = time + np.zeros_like(step.tokens)
        return Estimate(name="step", time_s=time, energy_j=0 * time)


def loop(
    clock: Clock, workload: Workload, *loads: float, slots: float = ENDLESS, prefill_first: bool = False
) -> Steady:
    return closed_loop(clock, slots, workload, np.array(loads), prefill_first=prefill_first)  # type: ignore[arg-type]


def test_a_prompt_that_rides_for_free() -> None:
    # 10 ms steps whatever is in them. A request waits half a step for the running one, one step for its prompt,
    # and 99 steps for the other tokens: 15 + 990 ms. Ten requests at a time: 10 / 1.005 s.
    found = loop(Clock(), Workload(input_tokens=100, output_tokens=100), 1, 10)
    assert found.tpot_s == pytest.approx([0.010, 0.010])
    assert found.ttft_s == pytest.approx([0.015, 0.015])
    assert found.e2e_s == pytest.approx([1.005, 1.005])
    assert found.requests_per_s == pytest.approx([1 / 1.005, 10 / 1.005])


def test_a_prompt_that_delays_everybody() -> None:
    # 100 prompt tokens take 100 ms more. With 11 in flight, a life is 99 steps of 10 ms and eleven such delays, after half
    # a step of waiting and beside the 10 ms that its own prompt's step would have taken anyway.
    found = loop(Clock(per_prompt_token_s=1e-3), Workload(input_tokens=100, output_tokens=100), 1, 11)
    assert found.tpot_s[0] == pytest.approx(0.010)
    assert found.e2e_s == pytest.approx([0.005 + 0.010 + 0.99 + 0.1, 0.005 + 0.010 + 0.99 + 11 * 0.1])
    assert 0.010 < found.tpot_s[1] < 0.010 + 10 * 0.1 / 99  # some of the delays fall on waiting


def test_an_engine_that_computes_prompts_alone_stops_decoding_for_them() -> None:
    # The whole prompt step is extra, not only the 100 ms a prompt by which it is longer than a decode step. Of a hundred
    # steps, 11 prompts come; at random they share a step in 11% / (1 - e^-11%) = 1.056, and with it its first 10 ms.
    work = Workload(input_tokens=100, output_tokens=100)
    found = loop(Clock(per_prompt_token_s=1e-3), work, 11, prefill_first=True)
    together = 0.11 / (1 - math.exp(-0.11))
    assert found.e2e_s == pytest.approx([0.005 + 0.99 + 11 * (0.100 + 0.010 / together)])


def test_a_prompt_without_answer_waits_for_all_the_others() -> None:
    # One token out: nothing to decode, eleven prompts of 100 ms one after the other.
    found = loop(Clock(per_prompt_token_s=1e-3), Workload(input_tokens=100, output_tokens=1), 11)
    assert found.ttft_s == pytest.approx([0.005 + 0.010 + 11 * 0.1])
    assert found.e2e_s == pytest.approx(found.ttft_s)


def test_a_long_prompt_takes_steps_as_the_token_budget_says() -> None:
    # 3996 tokens in chunks of at most 999 (one decoding sequence rides): 4 steps, and half a step of waiting before.
    found = loop(Clock(), Workload(input_tokens=3996, output_tokens=10), 1)
    assert found.ttft_s == pytest.approx([0.005 + 4 * 0.010])


def test_no_load_gets_more_out_than_steps_and_prompts_allow() -> None:
    # Each request costs 100 steps shared by n, and its own extra 100 ms: at most 1 / (100 x 10 ms / n + 100 ms) a second.
    loads = np.array([1.0, 10.0, 100.0, 1000.0])
    found = loop(Clock(per_prompt_token_s=1e-3), Workload(input_tokens=100, output_tokens=100), *loads)
    assert np.all(found.requests_per_s <= 1 / (100 * 0.010 / loads + 0.100))
    assert np.all(np.diff(found.requests_per_s) > 0)


def test_cache_bounds_what_runs_and_the_rest_waits() -> None:
    # A request of 40 + 100 tokens holds 40 + 0.6 x 100 = 100 on average: ten fit into 1000.
    work = Workload(input_tokens=40, output_tokens=100)
    found = loop(Clock(), work, 5, 20, slots=10.0)
    assert 1000.0 / resident_tokens(lengths(work, 0.0)) == 10
    assert found.running == pytest.approx([5, 10])
    assert found.waiting == pytest.approx([0, 10])
    # Ten more in flight get through no faster: they wait for a slot, ten at 10 / (100 x 10 ms).
    assert found.requests_per_s[1] == pytest.approx(10 / 1.005, rel=0.01)
    assert found.ttft_s[1] - found.ttft_s[0] == pytest.approx(10 / (10 / 1.0), rel=0.01)


def test_max_num_seqs_bounds_what_runs() -> None:
    choice = Choice(max_num_seqs=4)
    made = system(Scenario(model="llama-3.1-8b", hardware="h100-sxm", choice=choice))
    assert made.slots(lengths(Workload(input_tokens=40, output_tokens=100), 0.0)) == 4


def test_prefix_hits_are_not_computed_and_the_last_token_always_is() -> None:
    work = Workload(input_tokens=100, output_tokens=10)
    assert lengths(work, 0.3)[:3] == pytest.approx((70, 30, 10))
    assert lengths(work, 0.999)[:3] == pytest.approx((1, 99, 10))
    assert lengths(Workload(input_tokens=1, output_tokens=10), 0.9)[:3] == (1, 0, 10)


def test_spread_lengths_are_uniform_below_the_nominal_ones() -> None:
    assert lengths(Workload(input_tokens=100, output_tokens=10, length_spread=0.2), 0.0)[:3] == pytest.approx(
        (90, 0, 9)
    )


def test_what_the_engine_adds_to_the_first_token() -> None:
    plain = loop(Clock(), Workload(input_tokens=100, output_tokens=100), 1)
    host = EngineFit(request_s=0.003, first_token_steps=2.0)
    found = loop(Clock(host=host), Workload(input_tokens=100, output_tokens=100), 1)
    assert found.ttft_s - plain.ttft_s == pytest.approx([0.003 + 2 * 0.010])


def test_first_wave_of_a_benchmark_run() -> None:
    # 20 prompts of 100 fill two steps of 1000 tokens: a wave of one slot's requests waits 1.5 steps on average. With two
    # requests a slot half of them are in it, the other half find the steady state of half a step and their own.
    steady = loop(Clock(), Workload(input_tokens=100, output_tokens=100), 20)
    run = loop(Clock(), Workload(input_tokens=100, output_tokens=100, requests_per_slot=2), 20)
    assert steady.ttft_s == pytest.approx([0.015])
    assert run.ttft_s == pytest.approx([0.5 * 0.015 + 0.5 * 0.015])
    alone = loop(Clock(), Workload(input_tokens=100, output_tokens=100, requests_per_slot=1), 40)
    assert alone.ttft_s == pytest.approx([2.5 * 0.010])  # 4 steps: 1, 2, 3 or 4 of them


def test_ranks_and_stages_multiply_throughput() -> None:
    work = Workload(input_tokens=100, output_tokens=100)
    ranks = Clock(deployment=Deployment(engine="generic", max_num_batched_tokens=1000, attention_dp=4))
    assert loop(ranks, work, 10).requests_per_s == pytest.approx(4 * loop(Clock(), work, 10).requests_per_s)


def test_static_batch_is_prompts_then_tokens() -> None:
    # 20 prompts of 100 in steps of 1000 tokens: two steps, then 99 steps for the other tokens; 20 requests in 1.01 s.
    found = static_batch(Clock(), ENDLESS, Workload(input_tokens=100, output_tokens=100), np.array([20.0]))  # type: ignore[arg-type]
    assert found.ttft_s == pytest.approx([0.020])
    assert found.tpot_s == pytest.approx([0.010])
    assert found.e2e_s == pytest.approx([0.020 + 0.990])
    assert found.requests_per_s == pytest.approx([20 / 1.010])


def test_static_batch_larger_than_the_cache_goes_in_rounds() -> None:
    work = Workload(input_tokens=40, output_tokens=100)
    one, three = (static_batch(Clock(), 10.0, work, np.array([n])) for n in (10.0, 30.0))  # type: ignore[arg-type]
    assert three.running == pytest.approx([10])
    assert three.e2e_s == pytest.approx(3 * one.e2e_s)
    assert three.requests_per_s == pytest.approx(one.requests_per_s)


def test_replicas_without_a_request_are_idle_and_the_others_execute_whole_ones() -> None:
    # A quarter of a request a replica is one request in one of four: as fast as alone, a quarter of the time.
    work = Workload(input_tokens=100, output_tokens=100)
    whole, quarter = loop(Clock(per_prompt_token_s=1e-3), work, 1), loop(Clock(per_prompt_token_s=1e-3), work, 0.25)
    assert quarter.ttft_s == pytest.approx(whole.ttft_s)
    assert quarter.requests_per_s == pytest.approx(whole.requests_per_s / 4)
    batch = [static_batch(Clock(), ENDLESS, work, np.array([n])) for n in (1.0, 0.25)]  # type: ignore[arg-type]
    assert batch[1].e2e_s == pytest.approx(batch[0].e2e_s)
    assert batch[1].requests_per_s == pytest.approx(batch[0].requests_per_s / 4)


def test_a_lone_prompt_slows_a_whole_pipeline() -> None:
    # Four stages, 4 requests of 1000 tokens: prompts are rare, nearly all of their 100 ms is lost. With 4000 requests of
    # one token each every micro-batch carries prompts, and the stages share the work.
    pipeline = Deployment(engine="generic", max_num_batched_tokens=1000, pipeline_parallel=4)
    clock = Clock(per_prompt_token_s=1e-3, deployment=pipeline)
    rare = loop(clock, Workload(input_tokens=100, output_tokens=1000), 4)
    assert rare.e2e_s == pytest.approx([999 * 0.010 + 4 * 0.1], rel=0.01)
    full = loop(clock, Workload(input_tokens=100, output_tokens=1), 4000)
    assert full.requests_per_s == pytest.approx([4 / 0.1], rel=0.2)

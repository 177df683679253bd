"""The formulas of a closed loop against the loop itself, step by step, with an engine whose steps take known times."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest

from gemmstone.core.calibration import EngineFit
from gemmstone.core.deployment import Deployment, Step, Workload
from gemmstone.core.estimate import Estimate
from gemmstone.simulate.steady import closed_loop

BUDGET = 8192


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A timer: so long a step, so much for a decoding sequence and for a prompt token in it."""

    step_s: float = 0.010
    per_sequence_s: float = 2e-5
    per_prompt_token_s: float = 3e-5
    deployment: Deployment = Deployment(engine="generic", max_num_batched_tokens=BUDGET)
    host: EngineFit = EngineFit()
    start_s: float = 0.0

    def seconds(self, sequences: float, prompt_tokens: float) -> float:
        return self.step_s + self.per_sequence_s * sequences + self.per_prompt_token_s * prompt_tokens

    def estimate(self, step: Step) -> Estimate:
        prompt_tokens = np.asarray(step.prefill_seqs * step.prefill_tokens, dtype=float)
        time_s = self.step_s + self.per_sequence_s * step.decode_seqs + self.per_prompt_token_s * prompt_tokens
        return Estimate(name="step", time_s=time_s, energy_j=0 * time_s)


def run(clock: Linear, workload: Workload, slots: int, *, prompts_alone: bool, seed: int = 1) -> tuple[float, float]:
    """Mean TTFT and TPOT of ten requests a slot: all slots start at once, each sends its next request when one is done.

    Prompts are taken in order of arrival, into what the decoding sequences leave of the token budget.
    """
    draw = np.random.default_rng(seed)

    def lengths() -> tuple[int, int]:
        low = 1.0 - workload.length_spread
        return tuple(max(1, round(n * draw.uniform(low, 1.0))) for n in (workload.input_tokens, workload.output_tokens))

    now, steps, sent = 0.0, 0, slots
    waiting = deque([now, *lengths()] for _ in range(slots))
    running: list[tuple[int, float, int]] = []  # (step of the last token, time of the first, tokens after it)
    firsts, paces = [], []
    while waiting or running:
        room = max(BUDGET - (0 if prompts_alone else len(running)), BUDGET // 4)
        taken, started = 0, []
        while waiting and taken < room:
            part = min(room - taken, waiting[0][1])
            waiting[0][1] -= part
            taken += part
            if not waiting[0][1]:
                started.append(waiting.popleft())
        now += clock.seconds(0 if prompts_alone and taken else len(running), taken)
        steps += not (prompts_alone and taken)
        while running and running[0][0] <= steps:
            _, first_s, later = heapq.heappop(running)
            paces.append((now - first_s) / later)
            if sent < 10 * slots:
                sent += 1
                waiting.append([now, *lengths()])
        for arrived_s, _, tokens in started:
            firsts.append(now - arrived_s)
            heapq.heappush(running, (steps + max(1, tokens - 1), now, max(1, tokens - 1)))
    return float(np.mean(firsts)), float(np.mean(paces))


@pytest.mark.parametrize("prompts_alone", [False, True], ids=["mixed", "prompts alone"])
@pytest.mark.parametrize(("prompt", "answer"), [(1024, 1024), (1024, 128), (4096, 512), (8192, 1024)])
@pytest.mark.parametrize("slots", [4, 32, 128])
def test_formulas_follow_the_loop(slots: int, prompt: int, answer: int, prompts_alone: bool) -> None:
    """Within a fifth for the first token, whose mean hangs on who meets whom, and 6% for the others, which share the work.

    Twice that where prompts have steps of their own: those that started together finish together, and go on to share
    steps more often than prompts that come at random.
    """
    clock = Linear()
    workload = Workload(
        input_tokens=prompt, output_tokens=answer, length_spread=0.2, mode="concurrency", requests_per_slot=10
    )
    found = closed_loop(clock, 1e9, workload, np.array([float(slots)]), prefill_first=prompts_alone)  # type: ignore[arg-type]
    ttft_s, tpot_s = run(clock, workload, slots, prompts_alone=prompts_alone)
    assert float(found.tpot_s[0]) == pytest.approx(tpot_s, rel=0.12 if prompts_alone else 0.06)
    assert float(found.ttft_s[0]) == pytest.approx(ttft_s, rel=0.2)

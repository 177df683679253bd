"""Jumping over uneventful steps changes nothing: the simulator agrees with the plain one that takes every step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import Case, cases
from fast import both, options_of, replicas_of, served, traffic_of
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from reference_fleet import Job, Pool, run

from gemmstone.simulate.replica import Handing
from gemmstone.simulate.requests import Served

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
CLOSE = 1e-9


def check_rows(found: Served, jobs: list[Job], counts: tuple[str, ...]) -> None:
    def expected(name: str) -> np.ndarray:
        return np.array([getattr(job, name) for job in jobs], dtype=float)

    for name in ("arrival_s", "scheduled_s", "first_token_s", "finished_s"):
        np.testing.assert_allclose(getattr(found, name), expected(name), rtol=CLOSE, atol=1e-12, err_msg=name)
    for name in counts:
        np.testing.assert_array_equal(getattr(found, name), expected(name), err_msg=name)


def same(case: Case) -> None:
    """Both simulators give every request the same times, preemptions and cached tokens."""
    jobs, engines = case.reference()
    assume(case.decided(jobs, engines))
    totals, found = both(case)
    if any(job.ask.follows >= 0 for job in jobs):
        jobs = sorted(jobs, key=lambda job: (job.arrival_s, job.index))  # in order of arrival

    check_rows(found, jobs, ("preemptions", "cached_tokens", "replica"))
    assert totals.steps == sum(len(engine.trace) for engine in engines)
    assert totals.rejected == sum(job.rejected for job in jobs)
    assert totals.preemptions == sum(job.preemptions for job in jobs)


@given(
    cases(kinds=("linear", "bent"), watermark=True, replicas=2),
    cases(kinds=("linear", "bent"), replicas=2),
    st.integers(0, 50),
)
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
def test_pools_for_prompts_and_for_answers_are_exact(case: Case, other: Case, pace: int):
    limits = {"engine": case.engine | {"total_blocks": other.engine["total_blocks"] * other.engine["block_size"]}}
    decode = replace(case, steps=other.steps, **limits)
    prefill, decoding = [[*one.engines()] for one in (case, decode)]
    for engine in prefill:
        engine.prompts_only = True
    latency_s, token_s = 0.013 * pace, 0.0017 * pace
    jobs = run(
        case.asks, Pool(prefill), decode_pool=Pool(decoding), transfer_s=lambda tokens: latency_s + tokens * token_s
    )
    assume(case.decided(jobs, [*prefill, *decoding]))
    handing = Handing(latency_s=latency_s, token_s=token_s)
    replicas = [replace(one, handing=handing) for one in replicas_of(case)]
    replicas += [replace(one, takes_over=True) for one in replicas_of(decode)]
    totals, found = served(replicas, traffic_of(case), options_of(case))
    check_rows(found, jobs, ("preemptions",))
    assert totals.completed == sum(job.finished_s is not None for job in jobs)


def check_agreement(examples: int, **how) -> None:
    """So many random cases of some features."""

    @given(cases(**how))
    @settings(max_examples=examples, deadline=None, suppress_health_check=SLOW)
    def check(case: Case) -> None:
        same(case)

    check()


FEATURES: dict[str, dict] = {
    "prefill-first": {"batching": ("prefill-first",)},
    "static": {"batching": ("static",)},
    "policies": {"policies": ("priority", "shortest", "deadline")},
    "watermark": {"watermark": True},
    "prefix caching": {"caching": True},
    "swapping": {"swapping": True},
    "closed loop": {"loop": "closed"},
    "sessions": {"loop": "sessions"},
    "way to the scheduler": {"fronts": True},
    "replicas": {"replicas": 3},
    "least work": {"replicas": 3, "routers": ("least-work",)},
}


def test_continuous_batching_with_chunked_prompts_and_preemption_is_exact():
    check_agreement(150)


@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_is_exact(feature):
    check_agreement(40, **FEATURES[feature])


@pytest.mark.parametrize("feature", FEATURES)
def test_features_are_exact_in_pairs(feature):
    for other in list(FEATURES)[list(FEATURES).index(feature) + 1 :]:
        if not set(FEATURES[feature]) & set(FEATURES[other]):
            check_agreement(12, **FEATURES[feature], **FEATURES[other])


def test_all_that_goes_together_is_exact():
    check_agreement(
        60,
        batching=("continuous", "prefill-first"),
        policies=("fcfs", "priority", "shortest"),
        watermark=True,
        caching=True,
        swapping=True,
        loop="sessions",
        fronts=True,
        replicas=2,
        routers=("round-robin", "least-work"),
    )

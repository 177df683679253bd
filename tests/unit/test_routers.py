"""Routers: which of several replicas gets a request."""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.simulate import step_tables
from gemmstone.simulate.replica import Limits, Replica
from gemmstone.simulate.requests import Served, requests, whole
from gemmstone.simulate.routers import ROUTERS
from gemmstone.simulate.serving import Options, serve

LIMITS = Limits(total_blocks=10_000, max_num_seqs=64, max_num_batched_tokens=1024)


def served(router: str, arrival_s: list[float], prompts: list[int], answers: list[int], replicas: int = 2) -> Served:
    table = step_tables.linear(0.01, per_prompt_token_s=1e-3)
    rows: list[Served] = []
    traffic = whole("made up", requests(np.array(arrival_s), prompts, answers))
    serve([Replica(table=table, limits=LIMITS)] * replicas, traffic, Options(router=router), rows.append)
    return Served(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def test_a_long_answer_is_no_queue_but_it_is_work() -> None:
    """The first replica generates 900 tokens; the second computes a prompt of 100 when a third request comes."""
    arrivals, prompts, answers = [0.0, 0.05, 0.06], [10, 100, 10], [900, 2, 2]
    assert served("shortest-queue", arrivals, prompts, answers).replica.tolist() == [0, 1, 0]
    assert served("least-work", arrivals, prompts, answers).replica.tolist() == [0, 1, 1]


def test_of_equal_queues_the_one_with_less_work() -> None:
    """Both generate: the one with the shorter answer takes the next."""
    found = served("shortest-queue", [0.0, 0.05, 1.0], [10, 10, 10], [900, 500, 2])
    assert found.replica.tolist() == [0, 1, 1]


@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_sends_every_request_once(router: str) -> None:
    rng = np.random.default_rng(5)
    count = 200
    found = served(
        router,
        np.sort(rng.uniform(0, 5, count)).tolist(),
        rng.integers(1, 300, count).tolist(),
        rng.integers(1, 50, count).tolist(),
        replicas=3,
    )
    assert np.isfinite(found.finished_s).all()
    assert set(found.replica.tolist()) == {0, 1, 2}

"""Nothing is lost or made up on the way: requests, tokens, blocks of memory, time; and equal inputs give equal bytes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from cases import Case, cases
from fast import both, options_of, replicas_of, served, traffic_of
from hypothesis import HealthCheck, given, settings

from gemmstone.simulate import serving, step_tables
from gemmstone.simulate.replica import Limits, Replica
from gemmstone.simulate.requests import Requests, Served, Traffic, requests, whole
from gemmstone.simulate.serving import Options

SOME = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
ANY = {
    "caching": True,
    "swapping": True,
    "watermark": True,
    "batching": ("continuous", "prefill-first", "static"),
    "replicas": 2,
}


@given(cases(**ANY))
@SOME
def test_the_plain_engine_frees_all_blocks_and_computes_every_token_once_or_says_why(case: Case):
    jobs, engines = case.reference()
    for engine in engines:
        assert engine.room() == engine.total_blocks
        assert set(engine.users.values()) <= {0}
    # Tokens in caches at the end of each answer: prompt and all of the answer but its last token.
    cached = sum(job.computed for job in jobs if not job.rejected)
    computed = sum(step[2] + step[4] for engine in engines for step in engine.trace)
    assert computed == cached - sum(job.found for job in jobs) + sum(job.lost for job in jobs)


@given(cases(**ANY))
@SOME
def test_requests_and_tokens_are_all_accounted_for(case: Case):
    jobs, engines = case.reference()
    totals, found = both(case)
    served_ones = [job for job in jobs if not job.rejected]
    assert totals.submitted == len(case.asks) == totals.completed + totals.rejected
    assert totals.completed == np.isfinite(found.finished_s).sum() == len(served_ones)
    assert totals.output_tokens == sum(job.ask.output_tokens for job in served_ones)
    assert totals.prompt_tokens - totals.cached_tokens == sum(engine.prompt_tokens for engine in engines)
    assert totals.cached_tokens == sum(job.found for job in jobs)
    assert totals.per_replica.output_tokens.sum() == totals.output_tokens
    assert not totals.partial


@given(cases(**(ANY | {"batching": ("continuous", "prefill-first")})))
@SOME
def test_series_add_up_to_the_whole_and_obey_littles_law(case: Case):
    totals, found = both(case)
    length_s = np.diff(totals.series.time_s)
    # Everybody's time in the system is the number in the system over time, request by request and moment by moment.
    present = ((totals.series.queue + totals.series.running) * length_s).sum()
    assert present == pytest.approx(np.nansum(found.e2e_s), rel=1e-9)
    assert totals.series.prompt_tokens.sum() == pytest.approx(totals.prompt_tokens - totals.cached_tokens, rel=1e-9)
    assert totals.series.output_tokens.sum() == pytest.approx(totals.output_tokens, rel=1e-9)
    assert totals.series.kv_used_frac.max(initial=0.0) <= 1.0 + 1e-9
    assert totals.duration_s == pytest.approx(np.nanmax(found.finished_s, initial=0.0), rel=1e-12)


@given(cases(**ANY))
@SOME
def test_at_the_end_all_blocks_are_free_and_nobody_is_left(case: Case):
    simulation = serving.Simulation(
        replicas_of(case), traffic_of(case), options_of(case), serving.steady_fleet(len(case.steps))
    )
    for chunk in traffic_of(case).chunks():
        simulation.feed(chunk, lambda rows: None, lambda done, total: None)
    simulation.finish(lambda done, total: None)
    engines = simulation.world.engines
    assert (engines["free"] == engines["total_blocks"]).all()
    assert (engines["sequences"] == 0).all()
    assert (engines["waiting"] == 0).all()
    assert (engines["outstanding_tokens"] == 0).all()


def alike(one: Served, other: Served) -> None:
    for name, column in one._asdict().items():
        assert column.tobytes() == getattr(other, name).tobytes(), name


def chunked(traffic: Traffic, size: int) -> Traffic:
    """The same requests in chunks of so many."""

    def chunks() -> Iterator[Requests]:
        for one in traffic.chunks():
            for begin in range(0, len(one.arrival_s), size):
                part = slice(begin, begin + size)
                start = one.hash_start[begin : begin + size + 1]
                columns = {name: column[part] for name, column in one._asdict().items() if not name.startswith("hash")}
                yield Requests(**columns, hash_start=start - start[0], hash_ids=one.hash_ids[start[0] : start[-1]])

    return replace(traffic, chunks=chunks)


def crowd(count: int, seed: int = 3, rate: float = 10.0) -> Traffic:
    """Requests of random lengths, half of which begin alike."""
    random = np.random.default_rng(seed)
    input_tokens = random.integers(1, 200, count)
    hashes = input_tokens // 16
    ids = [
        1 + at if random.random() < 0.5 else 10_000 + 100 * index + at
        for index in range(count)
        for at in range(hashes[index])
    ]
    one = requests(
        np.cumsum(random.exponential(1 / rate, count)),
        input_tokens,
        random.integers(1, 100, count),
        client=random.integers(0, 5, count),
        priority=random.integers(0, 3, count),
        hash_start=np.concatenate([[0], np.cumsum(hashes)]).astype(np.int64),
        hash_ids=np.array(ids, dtype=np.int32),
    )
    return whole("crowd", one, hash_tokens=16)


def machine(total_blocks: int = 60) -> Replica:
    table = step_tables.linear(0.01, 0.001, 1e-5, 1e-4)
    return Replica(table=table, limits=Limits(total_blocks=total_blocks, max_num_seqs=16, max_num_batched_tokens=256))


@pytest.mark.parametrize(
    "options", [Options(), Options(router="least-work"), Options(policy="rotating", seed=4, epoch_steps=7)], ids=str
)
def test_equal_inputs_give_equal_bytes_however_they_come(options, monkeypatch):
    traffic = crowd(700)
    usual_totals, usual = served([machine(), machine()], traffic, options)
    assert usual_totals.preemptions > 0
    assert usual.cached_tokens.any()
    alike(usual, served([machine(), machine()], traffic, options)[1])
    alike(usual, served([machine(), machine()], traffic, replace(options, threads=1))[1])
    for size in (1, 37, 699):
        alike(usual, served([machine(), machine()], chunked(traffic, size), options)[1])
    monkeypatch.setattr(serving, "FIRST_RING", 16)  # few requests are known at once: the book has to grow and to wrap
    totals, found = served([machine(), machine()], chunked(traffic, 50), options)
    alike(usual, found)
    assert totals.steps == usual_totals.steps


def test_another_seed_draws_another_order():
    one, other = (
        served([machine()], crowd(300), Options(policy="rotating", seed=seed, epoch_steps=7))[1] for seed in (1, 2)
    )
    assert one.finished_s.tobytes() != other.finished_s.tobytes()


def test_an_overload_is_called_unstable():
    totals, found = served([machine()], crowd(3000, rate=50.0))
    assert not totals.stable
    assert totals.completed == 3000
    assert np.isfinite(found.finished_s).all()


def test_an_overload_ends_when_more_wait_than_can_be_known(monkeypatch):
    monkeypatch.setattr(serving, "FIRST_RING", 64)
    monkeypatch.setattr(serving, "LAST_RING", 256)
    traffic = crowd(3000, rate=500.0)
    totals, found = served([machine()], chunked(traffic, 100))
    assert totals.partial
    assert not totals.stable
    assert totals.submitted == len(found.arrival_s) < 3000
    assert totals.completed + totals.unfinished == totals.submitted


def test_no_requests_take_no_time():
    totals, found = served([machine()], whole("nothing", requests(np.zeros(0), [], [])))
    assert (totals.submitted, totals.completed, totals.duration_s, totals.steps) == (0, 0, 0.0, 0)
    assert len(found.arrival_s) == 0


def test_a_single_request_has_the_machine_to_itself():
    totals, found = served([machine()], whole("one", requests(np.array([2.5]), 300, 3)))
    # 256 and 44 prompt tokens, then two tokens of the answer with 300 and 301 in the cache.
    prompt_s = 2 * 0.01 + 300e-4
    assert found.first_token_s[0] == pytest.approx(2.5 + prompt_s, rel=1e-12)
    assert found.finished_s[0] == pytest.approx(2.5 + prompt_s + 2 * 0.011 + 601e-5, rel=1e-12)
    assert (totals.submitted, totals.completed, totals.steps) == (1, 1, 4)


def test_requests_longer_than_memory_are_rejected_and_the_others_served():
    one = requests(np.array([0.0, 0.0, 1.0]), [960, 961, 900], [1, 1, 62])  # room for 60 blocks of 16 tokens: 960
    totals, found = served([machine()], whole("long", one))
    assert (totals.completed, totals.rejected) == (1, 2)
    assert np.isfinite(found.finished_s).tolist() == [True, False, False]
    assert np.isnan(found.scheduled_s[1:]).all()
    assert found.preemptions.tolist() == [0, 0, 0]


def test_several_requests_may_follow_one_answer():
    """A conversation that forks: both ways go on when the answer is there, each after its pause."""
    forked = requests(np.array([0.0, 2.0, 5.0, 1.0]), 10, 4, follows=[-1, 0, 0, 1])
    found: list[Served] = []
    run = serving.serve([machine()], whole("fork", forked), Options(), found.append)
    sent, ended = found[-1].arrival_s, found[-1].finished_s
    assert run.totals.completed == 4
    assert sent[0] == 0.0
    assert sent[1:] == pytest.approx([ended[0] + 2.0, ended[1] + 1.0, ended[0] + 5.0])


def test_an_interruption_waits_until_what_is_being_written_is_whole():
    """A signal in the middle of the sink ends the simulation after it, and what was served by then is all handed over."""
    written: list[int] = []

    def sink(rows: Served) -> None:
        if not written:
            signal.raise_signal(signal.SIGINT)
        written.append(len(rows.arrival_s))  # reached: the signal did not cut the sink short

    run = serving.serve([machine()], crowd(300_000, rate=1.0), Options(), sink)
    assert run.totals.partial
    assert 0 < sum(written) == run.totals.submitted < 300_000
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

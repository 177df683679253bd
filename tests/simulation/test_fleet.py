"""Fleets that change: replicas start, drain and fail, and every request is answered once all the same."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.simulate import step_tables
from gemmstone.simulate.fleet import steady_fleet
from gemmstone.simulate.outcome.totals import Totals
from gemmstone.simulate.replica import Limits, Replica, Swap
from gemmstone.simulate.requests import Requests, Served, Traffic, requests, whole
from gemmstone.simulate.routers import ROUTERS
from gemmstone.simulate.scaling import autoscalers
from gemmstone.simulate.scaling.changing import Changes, ChangingFleet
from gemmstone.simulate.scaling.failures import Failures, read_times
from gemmstone.simulate.scaling.predictive import Predictive
from gemmstone.simulate.scaling.schedule import Schedule
from gemmstone.simulate.scaling.seen import Seen
from gemmstone.simulate.scaling.target import Target
from gemmstone.simulate.serving import Options, Simulation, serve
from gemmstone.simulate.sums import totals

TABLE = step_tables.linear(0.01, 1e-4, 1e-7, 1e-5, watts=300.0)
SLOWER = step_tables.linear(0.03, 3e-4, 3e-7, 3e-5, watts=200.0)
LIMITS = Limits(total_blocks=400, max_num_seqs=32, max_num_batched_tokens=2048)
PLAIN = Options()
ONE = Replica(table=TABLE, limits=LIMITS, standing_w=100.0, idle_w=70.0, usd_per_hour=3.6)


def poisson(count: int, rate: float, seed: int = 0, *, hashed: bool = False) -> Requests:
    chance = np.random.default_rng(seed)
    arrival_s = np.cumsum(chance.exponential(1.0 / rate, count))
    input_tokens, output_tokens = chance.integers(1, 800, count), chance.integers(1, 120, count)
    if not hashed:
        return requests(arrival_s, input_tokens, output_tokens)
    blocks = -(-input_tokens // 64)
    start = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
    family = chance.integers(0, 3, count)
    ids = [1000 * family[i] + at if at < 6 else 10_000 + 20 * i + at for i in range(count) for at in range(blocks[i])]
    return requests(arrival_s, input_tokens, output_tokens, hash_start=start, hash_ids=np.array(ids, dtype=np.int32))


def served(
    replicas: list[Replica], traffic: Traffic, changes: Changes | None, options: Options = PLAIN, lanes: int = 1
) -> tuple[Simulation, Served, Totals]:
    """What becomes of traffic, and the engines as they are at the end."""
    fleet = ChangingFleet([lanes] * (len(replicas) // lanes), changes) if changes else steady_fleet(len(replicas))
    simulation = Simulation(replicas, traffic, options, fleet)
    rows = []
    for chunk in traffic.chunks():
        assert simulation.feed(chunk, rows.append, lambda done, total: None)
    simulation.finish(lambda done, total: None)
    rows.append(simulation.rest())
    found = Served(*(np.concatenate(columns) for columns in zip(*rows, strict=True)))
    return simulation, found, totals(simulation.world, replicas, simulation.submitted, fleet, partial=False)


def nothing_left(simulation: Simulation, found: Served, sums: Totals, traffic: Traffic) -> None:
    """Every request has ended once, and engines hold nothing."""
    engines, book = simulation.world.engines, simulation.world.book
    assert len(found.arrival_s) == traffic.count == sums.submitted
    assert sums.completed + sums.rejected == traffic.count
    assert np.isfinite(found.finished_s).sum() == sums.completed
    assert sums.output_tokens == found.output_tokens[np.isfinite(found.finished_s)].sum()
    np.testing.assert_array_equal(engines["free"], engines["total_blocks"])
    for name in ("sequences", "waiting", "outstanding", "outstanding_tokens", "chunks", "transfer_s"):
        assert not engines[name].any(), name
    assert (engines["partial"] == -1).all()
    assert (engines["queue"] == -1).all()
    assert not engines["phases"].any()
    assert not simulation.world.clock["held"][0]
    heads = simulation.world.prefixes.heads
    np.testing.assert_array_equal(heads["unused"], heads["nodes"])  # nobody uses a cached block any more
    assert set(book["state"]) <= {0, 4, 5}
    done = np.isfinite(found.finished_s)
    assert (found.first_token_s[done] <= found.finished_s[done]).all()
    assert (found.arrival_s[done] <= found.scheduled_s[done]).all()
    assert (found.scheduled_s[done] < found.first_token_s[done]).all()


FAILING = Changes(failures=Failures(mtbf_s=15.0, repair_s=5.0), startup_s=3.0, retry_s=0.5)
SCALING = Changes(autoscaler=Target(metric="concurrency", value=8.0, down_s=10.0, interval_s=2.0), startup_s=4.0)
BOTH = replace(FAILING, autoscaler=SCALING.autoscaler)
SYSTEMS: dict[str, dict] = {
    "continuous": {},
    "prefill-first": {"options": Options(batching="prefill-first")},
    "static": {"options": Options(batching="static")},
    "fair": {"options": Options(policy="fair")},
    "rotating": {"options": Options(policy="rotating", epoch_steps=7)},
    "swapping": {"replica": replace(ONE, swap=Swap(block_s=1e-4, keep=True, host_blocks=300))},
    "prefix caching": {"hashed": True},
    "lanes": {"lanes": 2},
    **{router: {"options": Options(router=router)} for router in ROUTERS},
}


@pytest.mark.parametrize("changes", [FAILING, SCALING, BOTH], ids=["failing", "scaling", "both"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_no_request_is_lost_and_no_block_whatever_happens_to_replicas(name, changes):
    system = SYSTEMS[name]
    hashed = system.get("hashed", False)
    traffic = whole("poisson", poisson(1500, 12.0, hashed=hashed), hash_tokens=64 if hashed else 0)
    replicas = [system.get("replica", ONE)] * 4
    simulation, found, sums = served(
        replicas, traffic, changes, system.get("options", Options()), system.get("lanes", 1)
    )
    nothing_left(simulation, found, sums, traffic)
    assert sums.completed == traffic.count
    if changes is not SCALING:
        assert sums.failures > 5
        assert sums.retries > 0
    if name not in ("static", "fair"):
        again = served(replicas, traffic, changes, system.get("options", Options()), system.get("lanes", 1))[1]
        for one, other in zip(found, again, strict=True):
            assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("router", ROUTERS)
def test_an_autoscaler_that_may_not_scale_is_a_steady_fleet_bit_for_bit(router):
    traffic = whole("poisson", poisson(1200, 12.0))
    pinned = Changes(autoscaler=Target(metric="kv", value=0.5, interval_s=0.7), least=3, most=3, startup_s=9.0)
    (_, steady, before), (_, scaled, after) = (
        served([ONE] * 3, traffic, changes, Options(router=router)) for changes in (None, pinned)
    )
    for name, column in steady._asdict().items():
        assert column.tobytes() == getattr(scaled, name).tobytes(), name
    for one, other in zip((*before.series, *before.per_replica), (*after.series, *after.per_replica), strict=True):
        assert one.tobytes() == other.tobytes()
    assert before.energy_j == after.energy_j
    assert (before.steps, before.duration_s) == (after.steps, after.duration_s)
    assert before.itl_counts.tobytes() == after.itl_counts.tobytes()


def test_a_fleet_without_failures_is_a_steady_one():
    traffic = whole("poisson", poisson(500, 12.0))
    (_, steady, _), (_, same, _) = (served([ONE] * 2, traffic, changes) for changes in (None, Changes()))
    assert steady.finished_s.tobytes() == same.finished_s.tobytes()


def step_of_load(low: float, high: float, from_s: float, to_s: float, end_s: float) -> Traffic:
    """Arrivals at two rates."""
    chance = np.random.default_rng(5)
    parts = [
        np.sort(chance.uniform(begin, end, round(rate * (end - begin))))
        for rate, begin, end in ((low, 0.0, from_s), (high, from_s, to_s), (low, to_s, end_s))
    ]
    arrival_s = np.concatenate(parts)
    return whole("step", requests(arrival_s, 300, 60))


def mean_up(sums: Totals, from_s: float, to_s: float) -> float:
    middle = (sums.series.time_s[1:] + sums.series.time_s[:-1]) / 2.0
    return float(sums.series.replicas_up[(middle > from_s) & (middle < to_s)].mean())


@pytest.mark.parametrize(
    "autoscaler",
    [
        Target(metric="concurrency", value=10.0, down_s=60.0),
        Target(metric="busy", value=0.7, down_s=60.0),
        Predictive(rate=15.0, window_s=60.0, down_s=60.0),
        Schedule(steps=((0.0, 1), (300.0, 5), (900.0, 1))),
    ],
    ids=["concurrency", "busy", "predictive", "schedule"],
)
def test_scaling_follows_a_step_in_load_up_and_down(autoscaler):
    traffic = step_of_load(0.5, 60.0, 300.0, 900.0, 1500.0)
    changes = Changes(autoscaler=autoscaler, least=1, startup_s=30.0)
    simulation, found, sums = served([ONE] * 8, traffic, changes, Options(router="least-work"))
    nothing_left(simulation, found, sums, traffic)
    assert mean_up(sums, 100.0, 250.0) == pytest.approx(1.0, abs=0.1)
    assert mean_up(sums, 600.0, 900.0) > 2.9
    assert mean_up(sums, 1200.0, 1450.0) < 1.6
    assert sums.per_replica.up_s[0] == pytest.approx(sums.duration_s)
    assert sums.per_replica.up_s.sum() < 0.5 * 8 * sums.duration_s


def test_replicas_take_their_time_to_start():
    traffic = step_of_load(1.0, 60.0, 100.0, 400.0, 500.0)
    late = {}
    for startup_s in (0.0, 60.0):
        target = Target(metric="concurrency", value=10.0, interval_s=5.0)
        changes = Changes(autoscaler=target, startup_s=startup_s)
        _, _, sums = served([ONE] * 6, traffic, changes, Options(router="least-work"))
        busy = sums.series.time_s[1:][sums.series.replicas_up > 1.5]
        late[startup_s] = busy[0]
        per = sums.per_replica
        started = per.paid_s > 0.0
        starts = np.round((per.paid_s - per.up_s)[started] / max(startup_s, 1.0), 6)
        # Each start is paid for the time that it takes; the first replica is there from the beginning.
        assert starts[0] == 0.0
        assert (starts[1:] >= (1.0 if startup_s else 0.0)).all()
    assert 55.0 < late[60.0] - late[0.0] < 65.0


def test_a_crash_of_one_of_two_raises_latencies_and_loses_nothing():
    traffic = whole("poisson", poisson(2000, 35.0))
    crash = Changes(failures=Failures(times=((20.0, 1, 20.0),)), retry_s=1.0)
    router = Options(router="least-work")
    _, calm, before = served([ONE] * 2, traffic, Changes(), router)
    simulation, found, after = served([ONE] * 2, traffic, crash, router)
    nothing_left(simulation, found, after, traffic)
    assert (before.failures, after.failures) == (0, 1)
    assert before.completed == after.completed == 2000
    assert after.retries > 5
    assert np.percentile(found.e2e_s, 99) > 1.3 * np.percentile(calm.e2e_s, 99)
    assert found.e2e_s.mean() > calm.e2e_s.mean()
    arrived_before = found.arrival_s < 10.0
    np.testing.assert_array_equal(found.finished_s[arrived_before], calm.finished_s[arrived_before])
    hit = (calm.replica == 1) & (calm.arrival_s < 20.0) & (calm.finished_s > 20.0)
    assert hit.sum() == after.retries
    assert (found.scheduled_s[hit] >= 21.0).all()  # sent again after the delay, computed from the beginning
    assert not ((found.replica == 1) & (found.finished_s > 20.0) & (found.finished_s < 40.0)).any()
    assert after.per_replica.up_s[1] == pytest.approx(after.duration_s - 20.0)


def test_requests_wait_until_a_replica_is_up():
    traffic = whole("three", requests(np.array([1.0, 12.0, 13.0]), 16, 4))
    changes = Changes(failures=Failures(times=((10.0, 0, 20.0),)))
    simulation, found, sums = served([ONE], traffic, changes)
    nothing_left(simulation, found, sums, traffic)
    assert (found.scheduled_s[1:] == 30.0).all()
    assert sums.retries == 0


def test_a_fleet_that_never_comes_back_leaves_requests_unfinished_and_ends():
    traffic = whole("late", requests(np.array([1.0, 20.0]), 16, 4))
    changes = Changes(failures=Failures(times=((10.0, 0, 1e12),)), autoscaler=None)
    run = serve([ONE], traffic, Options(), fleet=ChangingFleet([1], changes))
    assert run.totals.submitted == 2
    assert run.totals.completed + run.totals.unfinished == 2


def test_a_request_that_outlasts_every_replica_is_given_up():
    traffic = whole("long", requests(np.array([1.0, 2.0]), 16, np.array([5000, 3])))
    changes = Changes(failures=Failures(mtbf_s=2.0, repair_s=0.1), retry_s=0.0)
    simulation, found, sums = served([ONE], traffic, changes)
    nothing_left(simulation, found, sums, traffic)
    assert np.isnan(found.finished_s[0])
    assert np.isfinite(found.finished_s[1])
    assert (sums.completed, sums.rejected) == (1, 1)


def test_an_empty_fleet_starts_with_the_first_request():
    traffic = whole("one", requests(np.array([100.0]), 16, 4))
    changes = Changes(autoscaler=Target(value=1.0, interval_s=10.0), least=0, startup_s=25.0)
    simulation, found, sums = served([ONE] * 2, traffic, changes)
    nothing_left(simulation, found, sums, traffic)
    assert found.scheduled_s[0] == 125.0 or found.scheduled_s[0] == 135.0
    assert sums.per_replica.paid_s[1] == 0.0


def test_a_drained_replica_finishes_what_it_has_and_takes_nothing_new():
    changes = Changes(autoscaler=Schedule(steps=((0.0, 2), (60.0, 1)), interval_s=5.0))
    traffic = whole("even", requests(np.arange(900) / 10.0, 200, 100))
    simulation, found, sums = served([ONE] * 2, traffic, changes)
    nothing_left(simulation, found, sums, traffic)
    second = found.replica == 1
    assert found.arrival_s[second].max() < 60.0 < found.finished_s[second].max()
    assert sums.per_replica.up_s[1] == pytest.approx(found.finished_s[second].max(), rel=1e-12)


def test_closed_loops_go_on_through_failures():
    traffic = whole("closed", requests(np.zeros(600), 100, 40), in_flight=12)
    simulation, found, sums = served([ONE] * 3, traffic, replace(FAILING, seed=3))
    nothing_left(simulation, found, sums, traffic)
    assert sums.completed == 600


def test_availability_is_the_share_of_time_between_failures():
    mtbf_s, repair_s, replicas = 40.0, 10.0, 8
    traffic = whole("thin", requests(np.linspace(0.0, 20_000.0, 2000), 16, 4))
    changes = Changes(failures=Failures(mtbf_s=mtbf_s, repair_s=repair_s))
    _, _, sums = served([ONE] * replicas, traffic, changes)
    expected = mtbf_s / (mtbf_s + repair_s)
    cycles = replicas * sums.duration_s / (mtbf_s + repair_s)
    # Delta method for a renewal reward with exponential up times and fixed repairs: sd of the share after n cycles.
    deviation = expected * (1.0 - expected) / math.sqrt(cycles)
    share = sums.per_replica.up_s.sum() / (replicas * sums.duration_s)
    assert abs(share - expected) < 3.3 * deviation
    assert sums.failures == pytest.approx(cycles, abs=4.0 * math.sqrt(cycles))


def test_cost_and_energy_are_those_of_the_time_that_replicas_are_there():
    traffic = step_of_load(5.0, 50.0, 100.0, 200.0, 400.0)
    changes = Changes(autoscaler=SCALING.autoscaler, startup_s=20.0)
    fleet = ChangingFleet([1] * 6, changes)
    run = serve([ONE] * 6, traffic, Options(router="least-work"), fleet=fleet)
    per = run.totals.per_replica
    logged_s = [sum(min(end, run.totals.duration_s) - begin for begin, end in log) for log in fleet.paid]
    np.testing.assert_allclose(per.paid_s, logged_s, rtol=1e-12)
    np.testing.assert_allclose(per.cost_usd, np.array(logged_s) * 0.001, rtol=1e-12)
    assert (per.paid_s >= per.up_s).all()
    idle = per.requests == 0
    np.testing.assert_allclose(per.energy_j[idle], 70.0 * per.paid_s[idle])
    standing = 100.0 * per.busy_s + 70.0 * (per.paid_s - per.busy_s)
    np.testing.assert_allclose(per.energy_j, standing + 300.0 * per.busy_s, rtol=1e-9)
    assert run.totals.series.energy_j.sum() == pytest.approx(run.totals.energy_j, rel=1e-9)
    up_s = (run.totals.series.replicas_up * np.diff(run.totals.series.time_s)).sum()
    assert up_s == pytest.approx(per.up_s.sum(), rel=1e-9)


def test_kinds_of_hardware_behind_one_router_share_the_work_by_their_speed():
    traffic = whole("poisson", poisson(3000, 25.0))
    slow = replace(ONE, table=SLOWER, token_s=0.03)
    fast = replace(ONE, token_s=0.01)
    _, found, sums = served([fast, fast, slow, slow], traffic, None, Options(router="least-work"))
    assert sums.completed == 3000
    requests_of = sums.per_replica.requests
    # Equal work means a third of the tokens at a time on a third of the speed: a ninth of the requests at most.
    assert 3.0 < requests_of[:2].sum() / requests_of[2:].sum() < 9.0
    _, blind, _ = served([fast, fast, slow, slow], traffic, None)
    assert found.e2e_s.mean() < blind.e2e_s.mean()


SEEN = Seen(now_s=0.0, interval_s=15.0, up=4, starting=0, queue=0, outstanding=0, arrived=0, busy_frac=0.0, kv_frac=0.0)


def test_target_wants_what_kubernetes_wants():
    def wanted(target: Target, **seen: float) -> int:
        return target.policy(0.0)(SEEN._replace(**seen))

    queue = Target(metric="queue", value=5.0)
    assert wanted(queue, queue=31) == 7  # ceil(31 / 5)
    assert wanted(queue, queue=22) == 4  # 10% over 20 is within the tolerance
    assert wanted(queue, queue=500) == 8  # doubling at most
    assert wanted(queue, queue=500, up=1) == 5  # or four more
    assert wanted(queue, queue=10) == 2
    assert wanted(queue, queue=31, starting=3) == 7  # those that start are enough
    assert wanted(queue, queue=70, starting=3) == 14
    assert wanted(queue, queue=1, up=0) == 1
    assert wanted(Target(metric="kv", value=0.5), kv_frac=0.8) == 7  # ceil(4 * 0.8 / 0.5)


def test_target_waits_before_it_wants_fewer():
    policy = Target(metric="queue", value=5.0, down_s=60.0).policy(0.0)
    found = [policy(SEEN._replace(now_s=at, queue=queue)) for at, queue in ((0.0, 20), (15.0, 5), (60.0, 5), (75.1, 5))]
    assert found == [4, 4, 4, 1]
    patient = Target(metric="queue", value=5.0, up_s=30.0).policy(0.0)
    found = [patient(SEEN._replace(now_s=at, queue=queue)) for at, queue in ((0.0, 20), (15.0, 40), (31.0, 40))]
    assert found == [4, 4, 8]


def test_predictive_follows_a_rise_ahead():
    policy = Predictive(rate=10.0, window_s=120.0).policy(60.0)
    found = [policy(SEEN._replace(now_s=15.0 * i, arrived=15 * 3 * i)) for i in range(1, 9)]
    # 3 requests/s more every 15 s: at 120 s, in the middle of the last interval 24/s, after 75 s more and half an interval.
    assert found[-1] == math.ceil((24.0 + 3.0 * (82.5 / 15.0)) / 10.0)


def test_schedule_starts_replicas_in_time():
    policy = Schedule(steps=((0.0, 1), (3600.0, 4))).policy(120.0)
    assert [policy(SEEN._replace(now_s=at)) for at in (0.0, 3470.0, 3480.0, 3600.0, 86_400.0 + 100.0)] == [
        1,
        1,
        4,
        4,
        1,
    ]


def test_autoscalers_are_read_from_text():
    assert autoscalers.read("target") == Target()
    assert autoscalers.read("target:metric=kv,value=0.7,down=5min,interval=30s") == Target(
        metric="kv", value=0.7, down_s=300.0, interval_s=30.0
    )
    assert autoscalers.read("schedule:08:00=10,00:30=2") == Schedule(steps=((1800.0, 2), (28_800.0, 10)))
    assert autoscalers.read("predictive:rate=4") == Predictive(rate=4.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hpa", "unknown autoscaler"),
        ("target:metric=cpu", "unknown metric"),
        ("target:value=0", "above 0"),
        ("target:metric=kv", "at most 1"),
        ("target:spam=1", "unknown setting"),
        ("target:value=", "SETTING=VALUE"),
        ("target:value=5,value=6", "each once"),
        ("target:interval=0s", "at least"),
        ("target:down=-5s", "between"),
        ("schedule", "times of the day"),
        ("schedule:25:00=1", "HH:MM=REPLICAS"),
        ("schedule:08:00=-1", "HH:MM=REPLICAS"),
        ("predictive", "needs its rate"),
    ],
)
def test_what_no_autoscaler_is_is_refused(text, says):
    with pytest.raises(BadRequest, match=says):
        autoscalers.read(text)


def test_failures_are_read_from_a_file(tmp_path):
    path = tmp_path / "failures.csv"
    path.write_text("time_s,replica,repair_s\n50,1,10min\n10s,0,5\n")
    assert read_times(str(path), 7.0) == ((10.0, 0, 5.0), (50.0, 1, 600.0))
    path.write_text("time_s,replica\n50,1\n")
    assert read_times(str(path), 7.0) == ((50.0, 1, 7.0),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "when,who\n1,1\n",
        "time_s,replica\n-1,0\n",
        "time_s,replica\n1,x\n",
        "time_s,replica\n1\n",
        "time_s,replica\nnan,0\n",
    ],
)
def test_a_file_that_names_no_failures_is_refused(tmp_path, text):
    path = tmp_path / "failures.csv"
    path.write_text(text)
    with pytest.raises(BadRequest, match="line"):
        read_times(str(path), 7.0)


@pytest.mark.parametrize(
    "wrong", [{"least": 3, "most": 2}, {"most": 0, "least": 0}, {"startup_s": -1.0}, {"retry_s": math.nan}]
)
def test_fleets_that_cannot_be_are_refused(wrong):
    with pytest.raises(BadRequest):
        Changes(**wrong)

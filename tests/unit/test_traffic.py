"""Traffic that is drawn: rates, bursts, lengths, sessions; the same seed gives the same bytes however it is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Requests
from gemmstone.simulate.traffic import fit, lengths, quantiles
from gemmstone.simulate.traffic.distribution import published
from gemmstone.simulate.traffic.draws import BLOCK
from gemmstone.simulate.traffic.kinds import KINDS
from gemmstone.simulate.traffic.named import named
from gemmstone.simulate.traffic.show import first, summary

OPEN = [name for name in KINDS if name not in ("closed", "mlperf-offline")]
FITTED = published()


def all_of(name: str, **asked: object) -> Requests:
    traffic = named(name, **asked)  # type: ignore[arg-type]
    return first(traffic, max(traffic.count, 1))


def gaps(name: str, **asked: object) -> np.ndarray:
    return np.diff(all_of(name, **asked).arrival_s)


@pytest.mark.parametrize("name", [*OPEN, *FITTED])
def test_chunk_boundaries_change_nothing(name):
    count = BLOCK + 5_000
    asked = {"requests": count, "rate_per_s": 20.0, "seed": 3}
    one, many = all_of(name, **asked), all_of(name, chunk=30_011, **asked)
    for field in Requests._fields:
        assert getattr(one, field).tobytes() == getattr(many, field).tobytes(), field
    assert len(one.arrival_s) == count


@pytest.mark.parametrize("name", [*OPEN, *FITTED])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(name):
    traffic = named(name, requests=2_000, rate_per_s=7.0, seed=1)
    again = named(name, requests=2_000, rate_per_s=7.0, seed=1)
    other = named(name, requests=2_000, rate_per_s=7.0, seed=2)
    (first_time,), (second_time,), (apart,) = traffic.chunks(), traffic.chunks(), again.chunks()
    for part in (second_time, apart):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first_time, part, strict=True))
    (different,) = other.chunks()
    assert name == "constant" or different.arrival_s.tobytes() != first_time.arrival_s.tobytes()


@pytest.mark.parametrize("name", [*OPEN, *FITTED])
@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(name, count):
    traffic = named(name, requests=count, rate_per_s=2.0)
    (part,) = traffic.chunks()
    assert traffic.count == len(part.arrival_s) == len(part.hash_start) - 1 == count


@pytest.mark.parametrize("count", [0, 1, 70_000])
def test_closed_loop(count):
    traffic = named("closed", requests=count, in_flight=8, input_tokens=100, output_tokens=10)
    parts = list(traffic.chunks())
    assert traffic.in_flight == 8
    assert traffic.rate_per_s is None
    assert sum(len(part.arrival_s) for part in parts) == count
    assert not any(part.arrival_s.any() for part in parts)


@pytest.mark.parametrize("name", FITTED)
def test_fitted_traffic_in_a_closed_loop_does_not_depend_on_chunks(name):
    one = all_of(name, requests=BLOCK + 100, in_flight=4)
    many = all_of(name, requests=BLOCK + 100, in_flight=4, chunk=10_007)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, many, strict=True))


def test_poisson_gaps_are_exponential_at_the_rate():
    found = gaps("poisson", requests=50_001, rate_per_s=4.0)
    # Mean of n exponential gaps: standard error mean / sqrt(n); five of them.
    assert found.mean() == pytest.approx(0.25, abs=5 * 0.25 / math.sqrt(len(found)))
    # Kolmogorov's bound at a level of 1e-6: sqrt(ln(2 / 1e-6) / 2n).
    below = 1.0 - np.exp(-4.0 * np.sort(found))
    distance = np.abs(below - np.arange(1, len(found) + 1) / len(found)).max()
    assert distance < math.sqrt(math.log(2e6) / (2 * len(found)))


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_gamma_gaps_vary_as_asked(cv):
    found = gaps("gamma", requests=100_001, rate_per_s=10.0, cv=cv)
    assert found.mean() == pytest.approx(0.1, abs=5 * 0.1 * cv / math.sqrt(len(found)))
    assert found.std() / found.mean() == pytest.approx(cv, rel=0.05)


def test_constant_gaps_are_equal():
    assert gaps("constant", requests=100, rate_per_s=8.0) == pytest.approx(np.full(99, 0.125))


def test_bursts_come_as_often_and_as_strong_as_asked():
    """Ten seconds in a burst of 20 times the rate, ninety between: 20/2.9 and 1/2.9 of the mean."""
    found = all_of("mmpp:ratio=20,burst_s=10,calm_s=90", requests=400_000, rate_per_s=50.0).arrival_s
    counts = np.bincount(found.astype(int))[:-1]
    calm, burst = 50.0 / 2.9, 20 * 50.0 / 2.9
    busy = counts > 3 * calm
    assert busy.mean() == pytest.approx(0.1, abs=0.03)
    assert np.median(counts[~busy]) == pytest.approx(calm, rel=0.05)
    assert np.median(counts[busy]) == pytest.approx(burst, rel=0.05)
    assert len(found) / found[-1] == pytest.approx(50.0, rel=0.15)


def test_a_day_has_its_peak_and_its_trough_where_asked():
    found = all_of("diurnal:peak_to_trough=4,peak_hour=10", requests=400_000, days=2.0).arrival_s
    by_hour = np.bincount((found // 3600).astype(int) % 24, minlength=24)
    assert by_hour.argmax() in (9, 10)
    assert by_hour.argmin() in (21, 22)
    assert by_hour.max() / by_hour.min() == pytest.approx(4.0, rel=0.05)
    assert found[-1] == pytest.approx(2 * 86_400, rel=0.01)


def test_hours_of_a_day_are_followed():
    factors = ";".join(["0"] * 12 + ["1"] * 12)
    found = all_of("diurnal", requests=10_000, days=1.0, hours=factors).arrival_s
    assert found.min() >= 43_200
    later = all_of("diurnal", requests=10_000, days=1.0, hours=factors, start_hour=12.0).arrival_s
    assert later.max() < 43_300 or later[later > 43_300].min() >= 86_400 - 1


def test_lengths_are_spread_as_the_contract_says():
    found = all_of("poisson", requests=50_000, rate_per_s=1.0, input_tokens=100, output_tokens=8, length_spread=0.5)
    assert (found.input_tokens.min(), found.input_tokens.max()) == (50, 100)
    assert (found.output_tokens.min(), found.output_tokens.max()) == (4, 8)
    assert found.input_tokens.mean() == pytest.approx(75.0, abs=5 * 15 / math.sqrt(50_000))


def test_lognormal_lengths_have_their_means_and_their_correlation():
    asked = {"input_cv": 1.5, "output_cv": 0.5, "correlation": 0.6, "input_tokens": 2_000, "output_tokens": 300}
    found = all_of("poisson", requests=200_000, rate_per_s=1.0, **asked)
    assert found.input_tokens.mean() == pytest.approx(2_000, rel=0.02)
    assert found.output_tokens.mean() == pytest.approx(300, rel=0.01)
    assert found.input_tokens.std() / found.input_tokens.mean() == pytest.approx(1.5, rel=0.05)
    logs = np.corrcoef(np.log(found.input_tokens), np.log(found.output_tokens))
    assert logs[0, 1] == pytest.approx(0.6, abs=0.01)


def test_lengths_of_a_distribution_with_arrivals_of_a_kind():
    found = all_of("gamma:lengths=azure-code,cv=3", requests=100_000, rate_per_s=5.0)
    own = all_of("azure-code", requests=100_000)
    for field in ("input_tokens", "output_tokens"):
        assert fit.distance(getattr(found, field), getattr(own, field)) < 0.01


def test_a_conversation_holds_what_was_said_before():
    found = all_of("agentic:turns=5,turn_tokens=50,hash_tokens=16,shared_tokens=160", requests=3_000, rate_per_s=2.0)
    later = np.flatnonzero(found.follows >= 0)
    assert np.array_equal(found.follows[later], later - 1)
    before = found.input_tokens[later - 1] + found.output_tokens[later - 1]
    assert (found.input_tokens[later] > before).all()
    assert np.array_equal(found.client[later], found.client[later - 1])
    assert np.array_equal(np.diff(found.hash_start), found.input_tokens // 16)
    for i in later[:200]:
        own = found.hash_ids[found.hash_start[i] : found.hash_start[i + 1]]
        former = found.hash_ids[found.hash_start[i - 1] : found.hash_start[i]]
        assert np.array_equal(own[: len(former)], former)
    starts = np.flatnonzero(found.follows < 0)
    instructions = [found.hash_ids[found.hash_start[i] : found.hash_start[i] + 10].tolist() for i in starts]
    assert all(ids == list(range(10)) for ids in instructions)
    rest = [found.hash_ids[found.hash_start[i] + 10] for i in starts]
    assert len(set(rest)) == len(starts)
    assert len(found.arrival_s) / len(starts) == pytest.approx(5.0, rel=0.15)


def test_prompts_of_a_conversation_stop_at_the_context():
    found = all_of("agentic:turns=50,max_tokens=3000", requests=2_000, rate_per_s=2.0)
    assert (found.input_tokens + found.output_tokens).max() <= 3_000


def test_a_week_has_the_requests_and_the_days_asked_for():
    traffic = named("azure-week", requests=300_000)
    found = first(traffic, 300_000)
    assert traffic.count == 300_000
    assert found.arrival_s[-1] / 86_400 == pytest.approx(7.0, rel=0.02)
    assert (np.diff(found.arrival_s) >= 0).all()
    by_hour = np.bincount((found.arrival_s[found.arrival_s < 7 * 86_400] // 3600).astype(int) % 24)
    assert by_hour.max() / by_hour.min() == pytest.approx(3.0, rel=0.25)
    assert named("azure-week", rate_per_s=1.0).count == 7 * 86_400
    assert named("azure-week", rate_per_s=1.0, days=2.0).count == 2 * 86_400


def test_a_mixture_has_the_lengths_of_its_parts_in_their_proportion():
    week = all_of("azure-week", requests=200_000)
    first_part, second = (all_of(name, requests=200_000) for name in ("azure-conversation", "azure-code"))
    share = 5.530136 / (5.530136 + 2.566395)
    expected = share * first_part.input_tokens.mean() + (1 - share) * second.input_tokens.mean()
    assert week.input_tokens.mean() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", [name for name in FITTED if name != "azure-week"])
def test_shipped_distributions_are_as_near_to_their_traces_as_they_say(name):
    """Drawn with another seed than in the fit, lengths follow the distribution's own quantiles."""
    from gemmstone.simulate.traffic.distribution import find

    shipped = find(name)
    assert shipped.lengths is not None
    found = all_of(name, requests=100_000, rate_per_s=3.0, seed=99)
    shares = (np.arange(100_000) + 0.5) / 100_000
    for field in ("input_tokens", "output_tokens"):
        own = np.rint(getattr(shipped.lengths, field).at(shares))
        # Two samples of 100,000, the second exact: Kolmogorov's bound at 1e-6, and the table's 1/65,536.
        assert fit.distance(own, getattr(found, field)) < math.sqrt(math.log(2e6) / 2e5) + 2 / 65_536
    said = shipped.document.get("fit")  # of those that were fitted to a trace
    if said is not None:
        assert max(said["ks_input_tokens"], said["ks_output_tokens"]) < 0.02
        assert len(shipped.document["fitted_to"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("name", "prompt", "answer", "percentiles"),
    [
        # median of 36 Server runs of Llama-2-70B, and of 14 of Mixtral: tokens/s over samples/s; latency over time per token
        ("mlperf-llama-2-70b", 306, 291, (251, 527, 960)),
        ("mlperf-mixtral-8x7b", 382, 146, (114, 283, 594)),
    ],
)
def test_answers_are_as_long_as_in_server_runs(name, prompt, answer, percentiles):
    found = all_of("mlperf-server", lengths=name, requests=100_000, rate_per_s=3.0)
    assert found.input_tokens.mean() == pytest.approx(prompt, rel=0.02)
    assert found.output_tokens.mean() == pytest.approx(answer, rel=0.02)
    # The 99th percentile of 100,000 draws of the second has a standard deviation of up to 13 tokens.
    assert np.percentile(found.output_tokens, (50, 90, 99)) == pytest.approx(percentiles, rel=0.05)
    assert found.output_tokens.max() == 1024  # what the benchmark lets them have at most


def test_shared_prefixes_of_the_shipped_conversations_are_as_many_as_in_the_trace():
    traffic = named("mooncake-conversation", requests=12_031, seed=5)
    hit = summary(traffic)["prefix"]["unlimited_hit_frac"]
    assert hit == pytest.approx(0.3734, abs=0.03)  # an unlimited cache on the trace itself


def test_quantiles_keep_the_mean_and_the_shape():
    values = np.random.default_rng(0).pareto(2.5, 20_000) + 1.0
    found = quantiles.fitted(values)
    assert found.mean == pytest.approx(values.mean(), rel=2e-3)  # the largest is rounded
    drawn = found.at(np.random.default_rng(1).random(200_000))
    assert fit.distance(values, drawn) < 0.01


def test_a_table_of_lengths_keeps_how_both_go_together():
    random = np.random.default_rng(0)
    first_, noise = random.lognormal(6, 1, 20_000), random.lognormal(0, 0.5, 20_000)
    prompts, answers = np.rint(first_) + 1, np.rint(first_ * noise / 10) + 1
    one, two = lengths.table(lengths.fitted(prompts, answers))

    class Drawn:
        input_tokens, output_tokens = one, two

    class Given:
        input_tokens, output_tokens = prompts, answers

    assert fit.rank_correlation(Drawn) == pytest.approx(fit.rank_correlation(Given), abs=0.02)


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("poisson", {}, "--rate"),
        ("closed", {}, "kept in flight"),
        ("closed", {"in_flight": 3, "rate_per_s": 1.0}, "no rate"),
        ("gamma:cw=3", {"rate_per_s": 1.0}, "cw"),
        ("gamma:cv=x", {"rate_per_s": 1.0}, "number"),
        ("gamma:cv=", {"rate_per_s": 1.0}, "NAME:KEY=VALUE"),
        ("gamma", {"rate_per_s": float("nan")}, "rate"),
        ("gamma", {"rate_per_s": 1.0, "requests": -1}, "requests"),
        ("poisson", {"rate_per_s": 1.0, "requests": 5, "days": 1.0}, "leave one"),
        ("poisson:lengths=azure-code", {"rate_per_s": 1.0, "input_tokens": 5}, "leave out"),
        ("azure-code", {"input_tokens": 5}, "lengths of its own"),
        ("lmsys-chat", {}, "--rate"),
        ("agentic", {"in_flight": 3}, "sessions"),
        ("diurnal:hours=1;2", {"rate_per_s": 1.0}, "24"),
        ("poisson", {"rate_per_s": 1.0, "input_cv": 1.0, "length_spread": 0.5}, "one of them"),
        ("no-such", {}, "poisson"),
        ("", {}, "needs a name"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_way_out(name, asked, words):
    with pytest.raises(BadRequest, match=words):
        named(name, **asked)

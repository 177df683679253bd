"""Distributions fitted to traces: what is drawn from one is like the trace, no row is in it, and broken files are refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemmstone import api
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.traffic import distribution, refresh, sharing
from gemmstone.simulate.traffic.named import named
from gemmstone.simulate.traffic.show import first


@pytest.fixture
def trace(tmp_path):
    """Writes requests as Parquet and says where."""

    def write(found, **more: object) -> str:
        columns = {name: getattr(found, name) for name in ("arrival_s", "input_tokens", "output_tokens")}
        pq.write_table(pa.table({**columns, **more}), tmp_path / "trace.parquet")
        return str(tmp_path / "trace.parquet")

    return write


def drawn(name: str, count: int, **asked: object):
    traffic = named(name, requests=count, **asked)  # type: ignore[arg-type]
    return first(traffic, count)


def test_a_trace_fitted_and_drawn_again_is_the_same_traffic(trace, tmp_path):
    path = trace(drawn("gamma:cv=3,input_cv=1,output_cv=0.7,correlation=0.8", 20_000, rate_per_s=5.0, input_tokens=900))
    out = str(tmp_path / "mine.json")
    fit = api.traffic_fit(path, out=out)["fit"]
    assert max(fit["ks_input_tokens"], fit["ks_output_tokens"], fit["ks_interarrival"]) < 0.02
    assert fit["rank_correlation"][1] == pytest.approx(fit["rank_correlation"][0], abs=0.03)
    again = api.traffic_show(out, requests=20_000)["traffic"]
    assert again["interarrival_cv"] == pytest.approx(3.0, rel=0.1)
    assert again["rate_per_s"] == pytest.approx(5.0, rel=0.1)
    faster = drawn(out, 20_000, rate_per_s=50.0)
    assert 20_000 / faster.arrival_s[-1] == pytest.approx(50.0, rel=0.15)


def test_a_rate_that_goes_up_and_down_is_kept_and_an_even_one_has_no_profile(trace):
    even = api.traffic_fit(trace(drawn("poisson", 20_000, rate_per_s=5.0)))["arrivals"]
    assert even["factors"] == [1.0]
    hours = ";".join(["1"] * 12 + ["5"] * 12)
    daily = api.traffic_fit(trace(drawn("diurnal", 40_000, days=2.5, hours=hours)))["arrivals"]
    assert daily["period_s"] == 86_400
    assert np.array(daily["factors"])[:12] == pytest.approx(1 / 3, rel=0.1)
    assert np.array(daily["factors"])[12:] == pytest.approx(5 / 3, rel=0.1)


def test_a_slow_clock_is_found(trace):
    found = drawn("poisson", 20_000, rate_per_s=5.0)
    rough = found._replace(arrival_s=np.floor(found.arrival_s / 2.0) * 2.0)
    document = api.traffic_fit(trace(rough))
    assert document["arrivals"]["tick_s"] == 2.0
    assert document["arrivals"]["cv"] == pytest.approx(1.0, abs=0.05)
    assert document["fit"]["ks_interarrival"] < 0.02


def test_lengths_alone_are_enough(tmp_path):
    (tmp_path / "a.csv").write_text(
        "input_tokens,output_tokens\n" + "".join(f"{i},{i // 2 + 1}\n" for i in range(1, 301))
    )
    out = str(tmp_path / "a.json")
    document = api.traffic_fit(str(tmp_path / "a.csv"), out=out)
    assert document["arrivals"] is None
    with pytest.raises(BadRequest, match="--rate"):
        named(out)
    assert drawn(out, 1_000, rate_per_s=2.0).input_tokens.mean() == pytest.approx(150.5, rel=0.05)


def test_what_a_hand_can_count_of_sharing():
    """Three requests: two blocks that nobody held, the same two and one more, the first alone."""
    counts, ids = np.array([2, 3, 1], np.int32), np.array([4, 5, 4, 5, 6, 4], np.int32)
    shared, ages = sharing.measured(counts, ids)
    assert shared.tolist() == [0, 2, 1]
    assert ages.tolist() == [0, 1, 1]
    # 2 + 1 blocks of 10 tokens of 25 + 35 + 10 tokens; the last prompt's last token is computed anyhow.
    assert sharing.hit_frac(counts, ids, 10, np.array([25, 35, 10], np.int32)) == pytest.approx((20 + 9) / 70)


def test_sharing_is_drawn_as_often_as_it_was_measured(trace):
    agents = drawn("agentic:turns=4,hash_tokens=128,shared_tokens=512", 12_000, rate_per_s=3.0, input_tokens=2_000)
    order = np.argsort(agents.arrival_s, kind="stable")  # as if sessions were spread over time
    lists = [agents.hash_ids[agents.hash_start[i] : agents.hash_start[i + 1]].tolist() for i in order]
    sorted_ = agents._replace(
        **{name: getattr(agents, name)[order] for name in ("arrival_s", "input_tokens", "output_tokens")}
    )
    document = api.traffic_fit(trace(sorted_, hash_ids=lists), hash_tokens=128)
    assert document["sharing"]["common_blocks"] == 4
    measured, again = document["fit"]["prefix_hit_frac"]
    assert again == pytest.approx(measured, abs=0.03)


def test_sessions_are_counted(trace):
    found = drawn("poisson", 300, rate_per_s=1.0)
    document = api.traffic_fit(trace(found, session_id=[f"s{i % 60}" for i in range(300)]))
    assert document["sessions"] == {"count": 60, "mean_requests": 5.0, "max_requests": 5}


def test_no_length_of_a_single_request_is_in_the_file(tmp_path):
    """Ends that few requests share are rounded: a prompt of 123,457 tokens cannot be found again."""
    rows = "".join(f"{i},{100 + i},{50 + i % 7}\n" for i in range(500)) + "500,123457,98765\n"
    (tmp_path / "a.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    text = json.dumps(api.traffic_fit(str(tmp_path / "a.csv"))["lengths"])
    assert "123457" not in text
    assert "98765" not in text


def test_fitting_twice_gives_the_same_file(trace, tmp_path):
    path = trace(drawn("poisson:input_cv=1", 3_000, rate_per_s=1.0))
    for name in ("a.json", "b.json"):
        api.traffic_fit(path, out=str(tmp_path / name), name="same")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").stat().st_size < 30_000


def test_too_few_requests_and_distributions_are_not_fitted(tmp_path):
    (tmp_path / "a.csv").write_text("arrival_s,input_tokens,output_tokens\n1,2,3\n")
    with pytest.raises(BadRequest, match="too few"):
        api.traffic_fit(str(tmp_path / "a.csv"))
    with pytest.raises(BadRequest, match="distribution already"):
        api.traffic_fit(str(distribution.FOLDER / "azure-code.json"))


@pytest.mark.parametrize("name", distribution.published())
def test_shipped_files_are_small_say_where_they_are_from_and_come_back_as_they_are(name):
    text = (distribution.FOLDER / f"{name}.json").read_text(encoding="utf-8")
    document = json.loads(text)
    assert len(text) < 30_000
    assert document["source"]
    assert document["license"]
    assert distribution.text(document) == text
    assert distribution.find(name).name == name


def test_the_shipped_ones_are_those_that_refresh_makes():
    assert distribution.published() == sorted(
        [*refresh.SHIPPED, "azure-week", "mlperf-llama-2-70b", "mlperf-mixtral-8x7b"]
    )


BREAK = {
    "no schema": lambda d: d.pop("schema"),
    "no lengths": lambda d: d.pop("lengths"),
    "lengths a list": lambda d: d.update(lengths=[]),
    "levels fall": lambda d: d["lengths"]["input_tokens"]["levels"].reverse(),
    "edges fall": lambda d: d["lengths"]["input_tokens"]["edges"].reverse(),
    "a mean outside": lambda d: d["lengths"]["output_tokens"]["means"].__setitem__(0, 1e9),
    "one mean too few": lambda d: d["lengths"]["output_tokens"]["means"].pop(),
    "text for a number": lambda d: d["lengths"]["output_tokens"]["means"].__setitem__(0, "1"),
    "no tokens": lambda d: d["lengths"]["output_tokens"]["edges"].__setitem__(0, 0),
    "infinite": lambda d: d["lengths"]["output_tokens"]["edges"].__setitem__(-1, float("inf")),
    "together no square": lambda d: d["lengths"]["together"].pop(),
    "together negative": lambda d: d["lengths"]["together"][0].__setitem__(0, -1),
    "rate zero": lambda d: d["arrivals"].update(rate_per_s=0),
    "rate NaN": lambda d: d["arrivals"].update(rate_per_s=float("nan")),
    "factors zero": lambda d: d["arrivals"].update(factors=[0, 0]),
    "gaps negative": lambda d: d["arrivals"]["gaps"]["edges"].__setitem__(0, -5),
    "arrivals a number": lambda d: d.update(arrivals=3),
    "hash tokens zero": lambda d: d["sharing"].update(hash_tokens=0),
    "continues above one": lambda d: d["sharing"]["continues"].__setitem__(0, 1.5),
    "one share too few": lambda d: d["sharing"]["shared"].pop(),
    "blocks fall": lambda d: d["sharing"]["upto_blocks"].reverse(),
    "sharing a list": lambda d: d.update(sharing=[]),
    "parts empty": lambda d: d.update(parts=[]),
    "parts unknown": lambda d: d.update(parts=[{"traffic": "../x", "rate_per_s": 1}]),
}


@pytest.mark.parametrize("how", BREAK)
def test_a_broken_distribution_is_refused_in_one_line(how, tmp_path):
    document = copy.deepcopy(json.loads((distribution.FOLDER / "mooncake-conversation.json").read_text()))
    BREAK[how](document)
    with pytest.raises(BadRequest) as caught:
        distribution.read(document, "mine")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("mine")

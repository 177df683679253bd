"""The charts of the page and the tables beside them say what the document says, and stay readable without a pointer."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from gemmstone.report import explanations, labels, load_charts, memory_charts, place_charts, sections, tables
from gemmstone.report.charts import figures, pareto
from gemmstone.report.figure import pale
from gemmstone.report.quantities import is_disaggregated

SLO = {"ttft_s": 1.0, "tpot_s": 0.05}
CURVE: dict[str, Any] = {
    "concurrency": [1.0, 4.0, 16.0, 64.0],
    "output_tokens_per_s": [100.0, 350.0, 1000.0, 2000.0],
    "tpot_s": [0.01, 0.011, 0.016, 0.06],
    "ttft_s": [0.1, 0.1, 0.3, 3.0],
}
BANDS = {
    name: {"low": [0.8 * v for v in CURVE[name]], "high": [1.25 * v for v in CURVE[name]]}
    for name in ("output_tokens_per_s", "tpot_s", "ttft_s")
}
CONTEXT: dict[str, Any] = {
    "requests": 8.0,
    "used_tokens": 1000.0,
    "fitting_tokens": 2500.0,
    "positions": 4096,
    "usable_bytes": 70e9,
    "device_bytes": 80e9,
    "fixed": [{"name": "weights", "bytes": 16e9}, {"name": "activations", "bytes": 1e9}, {"name": "context", "bytes": 3e9}],
    "tokens": [0.0, 1750.0, 3500.0],
    "cache_bytes": [0.0, 35e9, 70e9],
    "longest": [{"requests": 1.0, "tokens": 20000.0}, {"requests": 8.0, "tokens": 2500.0}, {"requests": 99999.0, "tokens": 0.0}],
}  # fmt: skip


def point(user: float, device: float, **more: Any) -> dict[str, Any]:
    return {
        "hardware": "8xh100-sxm", "engine": "vllm", "layout": "tp8 fp8 weights, fp8 cache", "concurrency": 8.0,
        "output_tokens_per_s_per_user": user, "output_tokens_per_s_per_device": device, "ttft_s": 0.5, "tpot_s": 1 / user, **more,
    }  # fmt: skip


AGGREGATED = [point(100.0, 50.0), point(40.0, 200.0), point(10.0, 300.0)]
DISAGGREGATED = [point(80.0, 120.0, mode="disaggregated"), point(50.0, 180.0, disaggregated=True)]


def front(points: list[dict[str, Any]]) -> dict[str, Any]:
    return pareto({"pareto": points, "slo": SLO, "best": None})


def lines(figure: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in figure["data"] if trace["mode"] == "lines"}


def dots(figure: dict[str, Any]) -> list[dict[str, Any]]:
    return [trace for trace in figure["data"] if trace["mode"] == "markers"]


def test_both_ways_of_serving_have_a_front_and_a_symbol_of_their_own() -> None:
    figure = front([*AGGREGATED, *DISAGGREGATED])
    drawn = lines(figure)
    assert drawn["front, aggregated"]["x"] == [100.0, 40.0, 10.0]
    assert drawn["front, disaggregated"]["x"] == [80.0, 50.0]
    assert drawn["front, aggregated"]["line"]["dash"] != drawn["front, disaggregated"]["line"]["dash"]
    assert all(trace["showlegend"] for trace in drawn.values())
    styles = {trace["name"]: trace["marker"]["symbol"].removesuffix("-open") for trace in dots(figure)}
    assert len(styles) == len(set(styles.values())) == 2
    assert {"aggregated", "disaggregated"} == {name.rpartition(", ")[2] for name in styles}


@pytest.mark.parametrize(("points", "named"), [(AGGREGATED, False), (DISAGGREGATED, True)])
def test_one_way_alone_is_drawn_alone(points: list[dict[str, Any]], named: bool) -> None:
    figure = front(points)
    assert len(lines(figure)) == 1
    assert [trace["showlegend"] for trace in lines(figure).values()] == [False]
    assert all(trace["name"].endswith(", disaggregated") is named for trace in dots(figure))
    assert {x for trace in dots(figure) for x in trace["x"]} == {p["output_tokens_per_s_per_user"] for p in points}


def test_a_way_that_is_beaten_everywhere_is_still_drawn() -> None:
    beaten = [{**p, "output_tokens_per_s_per_device": 10.0} for p in AGGREGATED]
    fronts = {"aggregated": beaten, "disaggregated": DISAGGREGATED}
    document = {"pareto": DISAGGREGATED, "detail": {"fronts": fronts}, "slo": SLO, "best": None}
    assert set(lines(pareto(document))) == {"front, aggregated", "front, disaggregated"}
    assert "The aggregated front in numbers" in tables.front(document)
    top = pareto(document)["layout"]["yaxis"]["range"][1]
    assert top > max(p["output_tokens_per_s_per_device"] for p in DISAGGREGATED)


def test_a_layout_is_split_before_its_formats() -> None:
    assert sections._layout("5*tp2 then 3*tp2 fp8 weights, fp8 cache") == ("5*tp2 then 3*tp2", "fp8 weights, fp8 cache")
    assert sections._layout("tp8.dp2 fp8-block weights, bf16 cache")[0] == "tp8.dp2"
    assert sections._layout("odd") == ("odd", "")


def test_many_places_never_share_colour_and_symbol() -> None:
    figure = front([{**point(10.0 + i, 100.0 - i), "hardware": f"{i + 1}xh100-sxm"} for i in range(12)])
    styles = [(trace["marker"]["color"], trace["marker"]["symbol"]) for trace in dots(figure)]
    assert len(styles) == len(set(styles)) == 12


def test_the_front_in_numbers_names_its_way_and_what_is_missed() -> None:
    markup = tables.front({"pareto": [*AGGREGATED, *DISAGGREGATED], "slo": SLO})
    assert "The aggregated front in numbers" in markup
    assert "The disaggregated front in numbers" in markup
    assert markup.count("misses TPOT") == 1, "10 tokens/s are 100 ms a token"
    assert tables.front({"pareto": [], "slo": {}}) == ""
    assert is_disaggregated({"mode": "aggregated"}) is is_disaggregated({}) is False


def test_a_long_front_is_thinned_from_end_to_end() -> None:
    points = [point(200.0 - i, 10.0 + i) for i in range(100)]
    markup = tables.front({"pareto": points, "slo": {}})
    assert "12 of 100 points" in markup
    assert markup.count("<tr>") == 1 + tables.MOST_ROWS
    assert ">200<" in markup
    assert ">101<" in markup


def test_the_curve_shades_what_misses_a_target() -> None:
    figure = load_charts.curve({**CURVE, "bands": BANDS}, SLO, 16.0)
    shaded = [shape for shape in figure["layout"]["shapes"] if shape["type"] == "rect"]
    assert {(s["yref"], s["y0"]) for s in shaded if s["xref"] == "paper"} == {("y2", 0.05), ("y3", 1.0)}
    [late] = [s for s in shaded if s["xref"] == "x"]
    assert late["x0"] == 64.0
    for shape in shaded:  # up to the end of the axis, however far that is
        name = "xaxis" if shape["xref"] == "x" else f"yaxis{shape['yref'][1:]}"
        assert shape["x1" if name == "xaxis" else "y1"] == pytest.approx(10 ** figure["layout"][name]["range"][1])


def test_bands_are_closed_and_inside_the_axes() -> None:
    figure = load_charts.curve({**CURVE, "bands": BANDS}, SLO, 16.0)
    areas = [trace for trace in figure["data"] if trace.get("fill") == "toself"]
    assert [trace["yaxis"] for trace in areas] == ["y", "y2", "y3"]
    for trace in areas:
        assert trace["x"] == [*CURVE["concurrency"], *reversed(CURVE["concurrency"])]
    for name, axis in (("tpot_s", "yaxis2"), ("ttft_s", "yaxis3")):
        low, high = figure["layout"][axis]["range"]
        assert low < math.log10(min(BANDS[name]["low"]))
        assert high > math.log10(max(BANDS[name]["high"]))
    without = load_charts.curve(CURVE, {}, 16.0)
    assert [trace["mode"] for trace in without["data"]] == ["lines+markers"] * 3
    assert not [shape for shape in without["layout"]["shapes"] if shape["type"] == "rect"]


def test_where_the_targets_are_missed_for_good() -> None:
    assert load_charts.missing(CURVE, SLO) == 64.0
    assert load_charts.missing(CURVE, {"ttft_s": 10.0}) is None
    assert load_charts.missing(CURVE, {"ttft_s": 0.01}) == 1.0
    bumpy = {**CURVE, "ttft_s": [2.0, 0.1, 0.3, 0.9]}
    assert load_charts.missing(bumpy, {"ttft_s": 1.0}) is None


def test_loads_in_numbers() -> None:
    document = {"detail": {"curve": {**CURVE, "bands": BANDS}}, "slo": SLO, "best": {"concurrency": 16.0}}
    markup = tables.loads(document)
    assert "16 (chosen)" in markup
    assert "80 to 125" in markup
    assert "misses TTFT, TPOT" in markup
    assert "From about 64 requests in flight on" in markup
    assert tables.loads({"slo": {}}) == ""


def test_the_tornado_ranks_by_strength_and_colours_by_direction() -> None:
    changes = {
        "compute": {"ttft_s": -0.09, "tpot_s": -0.01, "output_tokens_per_s": 0.02},
        "memory_bandwidth": {"ttft_s": -0.001, "tpot_s": -0.08, "output_tokens_per_s": 0.05},
        "memory_capacity": {"ttft_s": 0.03, "tpot_s": 0.0, "output_tokens_per_s": 0.0},
    }
    figure = load_charts.tornado(changes)
    tokens, ttft, tpot = figure["data"]
    assert tokens["y"] == ["memory bandwidth", "compute", "memory capacity"]
    assert ttft["y"] == ["compute", "memory capacity", "memory bandwidth"]
    assert tpot["text"] == ["-8.0%", "-1.0%", "no change"]
    assert ttft["marker"]["color"] == [load_charts.BETTER, load_charts.WORSE, load_charts.BETTER]
    assert tokens["marker"]["color"][0] == load_charts.BETTER
    low, high = figure["layout"]["xaxis"]["range"]
    assert low < -9.0 < 5.0 < high, "room for the numbers beside the longest bars"
    domains = [figure["layout"][name]["domain"] for name in ("yaxis", "yaxis2", "yaxis3")]
    assert all(below[1] < above[0] for above, below in pairwise(domains))


def test_memory_against_context_stacks_up_to_the_device_and_marks_where_it_ends() -> None:
    figure = memory_charts.context(CONTEXT)
    names = [trace["name"] for trace in figure["data"]]
    assert names == ["weights", "activations", "context, graphs, buffers", "KV cache and states"]
    assert [sum(trace["y"][i] for trace in figure["data"]) for i in range(3)] == pytest.approx([20.0, 55.0, 90.0])
    shapes = figure["layout"]["shapes"]
    assert {shape["y0"] for shape in shapes if shape["type"] == "line" and shape["xref"] == "paper"} == {70.0, 80.0}
    [beyond] = [shape for shape in shapes if shape["type"] == "rect"]
    assert (beyond["x0"], beyond["x1"]) == (2500.0, 3500.0)
    text = " ".join(note["text"] for note in figure["layout"]["annotations"])
    assert "fits up to 2,500" in text
    assert "80 GB" in text
    endless = memory_charts.context({**CONTEXT, "fitting_tokens": None})
    assert not [shape for shape in endless["layout"]["shapes"] if shape["type"] == "rect"]


def test_longest_contexts_in_words() -> None:
    markup = tables.context({"detail": {"context": CONTEXT}, "best": {}})
    assert "4,096 tokens, the model&#x27;s limit (memory for 20,000)" in markup
    assert "8 (chosen)" in markup
    assert "does not fit" in markup
    endless = {**CONTEXT, "longest": [{"requests": 1.0, "tokens": None}]}
    assert "any length" in tables.context({"detail": {"context": endless}, "best": {}})
    assert "those that decode" in tables.context({"detail": {"context": CONTEXT}, "best": {"disaggregated": True}})


def test_places_mark_what_is_counted() -> None:
    grams = {"value": 20.0, "low": 15.0, "high": 30.0}
    regions = [
        {"place": "Sweden, 2023", "g_per_kwh": 40.7, "counted": False, "gco2_per_million_output_tokens": grams},
        {"place": "<b>here", "g_per_kwh": 475.0, "counted": True, "gco2_per_million_output_tokens": grams},
    ]
    [bars] = place_charts.carbon(regions)["data"]
    assert bars["y"] == ["Sweden, 2023", "&lt;b&gt;here (counted)"]
    assert bars["error_x"]["array"] == [10.0, 10.0]
    assert bars["error_x"]["arrayminus"] == [5.0, 5.0]
    assert len(set(bars["marker"]["color"])) == 2
    prices = [
        {
            "usd_per_hour": 2.5,
            "place": "a cloud",
            "date": "2025",
            "counted": True,
            "usd_per_million_output_tokens": 1.25,
        }
    ]
    markup = tables.places({"detail": {"places": {"regions": regions, "prices": prices}}})
    assert "<b>a cloud, 2025 (counted)</b>" in markup
    assert "1.25" in markup
    assert "<b><b>" not in markup
    assert "15 to 30" in markup


def test_names_keep_off_points_and_off_each_other() -> None:
    crowd = [
        labels.Point(100.0 + 40 * i, 100.0 + 9 * (i % 3), 8.0, f"operation {i}" if i < 4 else "") for i in range(8)
    ]
    found = labels.sides(crowd, (600.0, 200.0))
    boxes = [labels._places(point)[side] for point, side in zip(crowd, found, strict=True) if point.name]
    for i, box in enumerate(boxes):
        assert all(box.shared(other) == 0 for other in boxes[:i])
        assert all(box.shared(point.box) == 0 for point in crowd)
        assert box.left >= 0
        assert box.right <= 600
    edge = labels.sides([labels.Point(590.0, 100.0, 5.0, "a long name")], (600.0, 200.0))
    assert edge[0].endswith("left")


def test_memory_of_two_kinds_of_device_is_two_bars_with_one_legend() -> None:
    def device(name: str, weights: float) -> dict[str, Any]:
        parts = [
            {"name": "weights", "bytes": weights, "parts": []},
            {"name": "free", "bytes": 80e9 - weights, "parts": []},
        ]
        return {"name": name, "bytes": 80e9, "parts": parts}

    one = device("usable", 20e9)
    pools = {"name": "pools", "bytes": 160e9, "parts": [device("decode device", 20e9), device("prefill device", 40e9)]}
    figure = memory_charts.memory(pools)
    assert [trace["y"] for trace in figure["data"]] == [["decode device"]] * 2 + [["prefill device"]] * 2
    assert [trace["showlegend"] for trace in figure["data"]] == [True, True, False, False]
    assert figure["layout"]["xaxis"]["range"] == [0, 80.0]
    assert [trace["y"] for trace in memory_charts.memory(one)["data"]] == [[""], [""]]
    markup = explanations.memory({"detail": {"memory": pools}})
    assert "<h3>decode device</h3>" in markup
    assert "50.0%" in markup, "40 of the 80 GB of a device, not of 160"


def test_a_document_without_data_has_no_figures() -> None:
    assert figures({"pareto": [], "sensitivity": {}}) == {}
    assert pale("#ff0000", 0.5) == "rgba(255,0,0,0.5)"

"""The page of a plan: complete, self-contained, escaped, whole or not there, and drawn by a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gemmstone import api
from gemmstone.core.errors import BadRequest
from gemmstone.plan.question import Question
from gemmstone.report import terms
from gemmstone.report.figure import log_ticks
from gemmstone.report.html import page, write_page
from gemmstone.report.markup import Html, element, island
from gemmstone.report.quantities import front
from gemmstone.simulate.pools import PoolChoice, PoolsChoice

CHARTS = ("pareto", "breakdown", "roofline", "memory", "context", "sensitivity", "curve", "places")
OF_A_PREDICTION = ("breakdown", "roofline", "memory", "context", "curve", "places")
SECTIONS = (
    "answer", "launch", "candidates", "pareto", "efficiency", "breakdown", "roofline", "memory", "context", "sensitivity",
    "load", "energy", "places", "limit", "made",
)  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & <!-- \u2028\x00\x1b[31m"
VOID = ("meta", "br", "img", "link")
MOST_BYTES = 6e6


def plan(**asked: Any) -> dict[str, Any]:
    workload = api.Workload(input_tokens=512, output_tokens=128)
    question: dict[str, Any] = {"model": "llama-3.1-8b", "hardware": ("2xh100-sxm",), "workload": workload, **asked}
    return api.plan(Question(**question), detail=True)


def predict(**asked: Any) -> dict[str, Any]:
    work = api.Workload(input_tokens=512, output_tokens=128, **asked)
    return api.predict(api.Scenario(model="llama-3.1-8b", hardware="2xh100-sxm", workload=work), detail=True)


@pytest.fixture(scope="module")
def feasible() -> dict[str, Any]:
    return plan(slo={"ttft": 2.0, "tpot": 0.05})


class Seen(HTMLParser):
    """A page as a browser would take it: ids in order, elements, addresses, scripts, visible text, charts drawn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.metas: dict[str, str] = {}
        self.scripts: list[str] = []
        self.drawn: set[str] = set()
        self.text = ""
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes |= set(known)
        if "id" in known:
            self.ids.append(known["id"])
        if tag == "meta":
            self.metas[known.get("http-equiv") or known.get("name") or "charset"] = known.get("content", "")
        if "main-svg" in known.get("class", "").split():
            self.drawn |= {place for _, place in self._open if place.startswith("chart-")}
        self.addresses += [known[name] for name in ("src", "href", "action", "data", "srcset") if name in known]
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self._open.append((tag, known.get("id", "")))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "script":
            self.scripts[-1] += data
        elif not self._open or self._open[-1][0] != "style":
            self.text += data

    @property
    def figures(self) -> dict[str, Any]:
        return dict(json.loads(self.scripts[0]))


def test_the_page_has_all_sections_in_order_and_needs_nothing_else(feasible: dict[str, Any]) -> None:
    text = page(feasible)
    seen = Seen(text)
    assert [name for name in seen.ids if name in SECTIONS] == list(SECTIONS)
    assert set(seen.figures) == set(CHARTS)
    assert {f"chart-{name}" for name in CHARTS} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))
    assert seen.addresses, "the page has a table of contents"
    assert all(address.startswith("#") and address[1:] in seen.ids for address in seen.addresses)
    assert {"link", "iframe", "object", "embed", "form", "base"}.isdisjoint(seen.tags)
    assert len(text.encode()) < MOST_BYTES


def test_the_page_says_what_the_document_says(feasible: dict[str, Any]) -> None:
    text = Seen(page(feasible)).text
    for command in feasible["launch_commands"].values():
        assert command in text
    for entry in feasible["candidates"]:
        assert entry["layout"].split(" ")[0] in text
    assert feasible["best"]["layout"] in text
    assert f"{feasible['best']['metrics']['usd_per_million_output_tokens']['value']:,.2f}" in text
    for message in [*feasible["warnings"], *feasible["best"]["notes"], *(e["example"] for e in feasible["rejected"])]:
        assert message in text
    assert feasible["gemmstone_version"] in text
    assert not re.search(r"20\d\d-\d\d-\d\d|\bnan\b|\binf\b", text), "no date, no number that is none"


def test_the_charts_hold_the_numbers_of_the_document(feasible: dict[str, Any]) -> None:
    figures = Seen(page(feasible)).figures
    drawn = {
        (x, y)
        for trace in figures["pareto"]["data"]
        if trace["mode"] == "markers"
        for x, y in zip(trace["x"], trace["y"], strict=True)
    }
    assert drawn == {(p["output_tokens_per_s_per_user"], p["output_tokens_per_s_per_device"]) for p in front(feasible)}
    assert figures["pareto"]["layout"]["shapes"][0]["x0"] == pytest.approx(1 / 0.05)
    for label in ("prefill step", "decode step"):
        shares = [t["x"][0] for t in figures["breakdown"]["data"] if t["y"][0].startswith(label) and t["x"][0]]
        assert sum(shares) == pytest.approx(100)
    total = sum(trace["x"][0] for trace in figures["memory"]["data"])
    assert total == pytest.approx(feasible["detail"]["memory"]["bytes"] / 1e9)
    targets = {shape["y0"] for shape in figures["curve"]["layout"]["shapes"]}
    assert {2.0, 0.05} <= targets
    dots = sum(len(trace["x"]) for trace in figures["roofline"]["data"] if "markers" in trace["mode"])
    computing = [op for op in feasible["detail"]["roofline"]["ops"] if op["flop"] > 0]
    assert dots == len(computing) > 0


def test_every_axis_of_a_quantity_has_a_title(feasible: dict[str, Any]) -> None:
    for name, figure in Seen(page(feasible)).figures.items():
        axes = {key: axis for key, axis in figure["layout"].items() if key.startswith(("xaxis", "yaxis"))}
        assert axes
        for key, axis in axes.items():
            categories = key.startswith("yaxis") and name in ("breakdown", "memory", "sensitivity", "places")
            assert categories or axis["title"]["text"], f"{name} {key}"


def test_points_that_miss_a_target_are_drawn_hollow() -> None:
    document = plan(slo={"tpot": 0.02}, hardware=("h100-sxm", "2xa100-sxm-80gb"), serving="both")
    traces = [t for t in Seen(page(document)).figures["pareto"]["data"] if t["mode"] == "markers"]
    assert {y for t in traces if t["marker"]["symbol"].endswith("-open") for y in t["x"]} == {
        p["output_tokens_per_s_per_user"] for p in front(document) if p["tpot_s"] > 0.02
    }
    places = {(p["disaggregated"], p["hardware"], p["engine"]) for p in front(document)}
    assert {way for way, _, _ in places} == {False, True}
    assert len({trace["marker"]["color"] for trace in traces}) == len(places)


def test_what_was_not_measured_on_the_device_is_hatched(feasible: dict[str, Any]) -> None:
    borrowed = plan(hardware=("8xmi300x",))
    for document in (feasible, borrowed):
        tree = document["detail"]["tree"]
        unmeasured = [t for step in tree["parts"] for t in terms.of(step) if t.source not in ("measured", "fitted")]
        bars = Seen(page(document)).figures["breakdown"]["data"]
        assert sum("pattern" in trace["marker"] for trace in bars) == len(unmeasured)
    assert unmeasured, "the second device has kernels that were never measured"


def test_what_comes_from_outside_is_text(feasible: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(feasible))
    changed["model"] = changed["gemmstone_version"] = changed["fidelity"] = EVIL
    changed["warnings"] = [EVIL]
    changed["rejected"] = [{"reason": EVIL, "count": 1, "example": EVIL}]
    changed["launch_commands"] = {EVIL: EVIL}
    drawn = changed["detail"]["fronts"]["aggregated"]
    for entry in [changed["best"], *changed["candidates"], *changed["pareto"], *drawn]:
        entry["layout"] = entry["hardware"] = entry["engine"] = EVIL
    for place in [*changed["detail"]["places"]["regions"], *changed["detail"]["places"]["prices"]]:
        place["place"] = EVIL
    changed["detail"]["places"]["prices"][0]["date"] = EVIL
    changed["best"]["efficiency"]["latency"]["definition"] = EVIL
    changed["detail"]["context"]["fixed"][0]["name"] = EVIL
    changed["sensitivity"][EVIL] = changed["sensitivity"]["compute"]
    for node in [
        *changed["detail"]["tree"]["parts"],
        *changed["detail"]["memory"]["parts"],
        *changed["detail"]["roofline"]["ops"],
    ]:
        node["name"] = EVIL
    changed["detail"]["roofline"]["peak_flop_per_s"][EVIL] = 1e12
    text = page(changed)
    seen, plain = Seen(text), Seen(page(feasible))
    assert seen.tags.count("script") == plain.tags.count("script") == 3
    assert "img" not in seen.tags
    assert seen.attributes <= plain.attributes
    assert "<script>alert(1)</script>" in seen.text, "it is there to read"
    assert "\x1b" not in text
    assert "\x00" not in text
    assert "<" not in seen.scripts[0], "nothing in the data can end or open an element"
    assert "<img" not in json.dumps(seen.figures), "Plotly reads some HTML: what it gets is escaped too"


def test_a_prediction_has_a_page_with_what_it_has() -> None:
    document = predict(load=32.0)
    seen = Seen(page(document))
    assert set(seen.figures) == set(OF_A_PREDICTION)
    assert [name for name in seen.ids if name in SECTIONS] == [
        "answer", "efficiency", "breakdown", "roofline", "memory", "context", "load", "energy", "places", "limit", "made",
    ]  # fmt: skip
    assert f"{document['metrics']['output_tokens_per_s']['value']:,.0f} output tokens/s" in seen.text
    assert f"{32} (chosen)" in seen.text
    assert "Targets" not in seen.text
    at = seen.figures["curve"]["data"][1]["x"].index(32.0)
    assert seen.figures["curve"]["data"][1]["y"][at] == pytest.approx(
        document["metrics"]["output_tokens_per_s"]["value"]
    )


@pytest.mark.parametrize("asked", [{"mode": "offline"}, {"mode": "rate", "load": 2.0}, {"mode": "batch", "load": 4.0}])
def test_a_prediction_without_a_number_in_flight_has_no_curve(asked: dict[str, Any]) -> None:
    seen = Seen(page(predict(**asked)))
    assert set(seen.figures) == set(OF_A_PREDICTION) - {"curve"}
    assert "load" not in seen.ids


def test_separate_pools_have_a_page_too() -> None:
    pools = PoolsChoice(prefill=PoolChoice(workers=2), decode=PoolChoice(workers=1, tensor_parallel=2))
    work = api.Workload(input_tokens=512, output_tokens=128, load=16.0)
    scenario = api.Scenario(model="llama-3.1-8b", hardware="h100-sxm", workload=work, pools=pools)
    document = api.predict(scenario, detail=True)
    seen = Seen(page(document))
    assert set(seen.figures) == set(OF_A_PREDICTION)
    assert "2 prefill workers on 2 x h100-sxm, each one device" in seen.text
    assert "1 decode worker on 2 x h100-sxm, each tp2" in seen.text
    bars = {trace["y"][0] for trace in seen.figures["memory"]["data"]}
    assert bars == {"decode device", "prefill device"}
    curve = document["detail"]["curve"]
    at = curve["concurrency"].index(16.0)
    assert curve["output_tokens_per_s"][at] == pytest.approx(document["metrics"]["output_tokens_per_s"]["value"])
    assert {op["phase"] for op in document["detail"]["roofline"]["ops"]} == {"prefill", "decode"}
    [price] = [price for price in document["detail"]["places"]["prices"] if price["counted"]]
    assert price["usd_per_hour"] == pytest.approx(2.95)


def test_a_prediction_at_the_limit_is_not_compared_with_itself() -> None:
    document = predict(load=4.0) | {"fidelity": "limit"}
    assert "limit" not in Seen(page(document)).ids


def test_only_the_scripts_of_the_page_may_run(feasible: dict[str, Any]) -> None:
    seen = Seen(page(feasible))
    policy = dict(rule.strip().split(" ", 1) for rule in seen.metas["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    digests = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in seen.scripts[1:]}
    assert set(policy["script-src"].split()) == {f"'sha256-{digest}'" for digest in digests}


def test_an_infeasible_plan_has_a_page_too() -> None:
    missed = plan(slo={"ttft": 1e-6})
    assert missed["best"] is None
    seen = Seen(page(missed))
    assert missed["fallback"]["message"] in seen.text
    assert missed["fallback"]["candidate"]["layout"].split(" ")[0] in seen.text
    assert "misses the target" in seen.text
    assert {"answer", "candidates", "pareto", "made"} <= set(seen.ids)
    assert "launch" not in seen.ids
    nothing = plan(model="llama-3.1-405b")
    assert nothing["fallback"]["candidate"] is None
    seen = Seen(page(nothing))
    assert nothing["fallback"]["message"] in seen.text
    assert all(entry["example"] in seen.text for entry in nothing["rejected"])
    assert seen.figures == {}


def test_a_plan_without_detail_has_what_it_has(feasible: dict[str, Any]) -> None:
    seen = Seen(page({key: value for key, value in feasible.items() if key != "detail"}))
    assert set(seen.figures) == {"pareto", "sensitivity"}
    assert [name for name in seen.ids if name in SECTIONS] == [
        "answer",
        "launch",
        "candidates",
        "pareto",
        "efficiency",
        "sensitivity",
        "energy",
        "made",
    ]
    assert "embodied: not counted" in seen.text


def test_metrics_that_are_not_known_are_left_out(feasible: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(feasible))
    for entry in [changed["best"], *changed["candidates"]]:
        del entry["metrics"]["usd_per_million_output_tokens"], entry["metrics"]["energy_j_per_output_token"]
    changed["detail"]["places"] = {"regions": [], "prices": []}
    seen = Seen(page(changed))
    text = seen.text
    assert "places" not in seen.ids
    assert "USD per million output tokens" not in text
    assert "million output tokens." not in text


def test_the_limit_may_carry_bands(feasible: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(feasible))
    plain = {k: v["value"] if isinstance(v, dict) else v for k, v in changed["detail"]["limit"].items()}
    changed["detail"]["limit"] = plain
    expected = page(changed)
    changed["detail"]["limit"] = {k: {"value": v, "low": v, "high": v} for k, v in plain.items()}
    assert page(changed) == expected


def test_it_is_written_whole_or_not_at_all(feasible: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "plan.html"
    write_page({**feasible, "model": "a \udcff b"}, str(target))
    write_page(feasible, str(target))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.html"]
    assert target.read_text(encoding="utf-8") == page(feasible)
    (tmp_path / "folder").mkdir()
    for impossible in (tmp_path / "none" / "plan.html", tmp_path / "folder", target / "plan.html"):
        with pytest.raises(BadRequest, match="cannot write"):
            write_page(feasible, str(impossible))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "plan.html"]
    assert target.read_text(encoding="utf-8").endswith("</html>\n")


def test_terms_of_a_step_add_up_where_things_overlap() -> None:
    def node(name: str, time_s: float, *parts: dict[str, Any]) -> dict[str, Any]:
        rest = {"count": 1, "bound": "compute", "source": "fitted", "error_frac": 0.1}
        return {"name": name, "time_s": time_s, "parts": list(parts), **rest}

    device = node("device", 3.0, node("a", 1.0), node("b", 2.0), node("idle", 0.0))
    hidden = node("step", 3.0, device, node("host", 2.5))
    assert [(term.name, term.group) for term in terms.of(hidden)] == [("a", "device"), ("b", "device")]
    late = node("step", 4.0, device, node("host", 4.0))
    assert [term.name for term in terms.of(late)] == ["host"]
    one_after_the_other = node("step", 3.5, device, node("host", 0.5))
    assert sum(term.time_s for term in terms.of(one_after_the_other)) == 3.5


def test_markup_escapes_all_that_it_did_not_make() -> None:
    assert element("p", "<b>", Html("<i>"), title='"') == '<p title="&quot;">&lt;b&gt;<i></p>'
    assert element("span", "a\u202eb") == "<span>a\ufffdb</span>"
    assert json.loads(island({"a": ["</script>&", float("nan"), float("inf"), 1.5]})) == {
        "a": ["</script>&", None, None, 1.5]
    }


def test_ticks_of_a_logarithmic_axis() -> None:
    assert log_ticks([0.017, 0.25]) == pytest.approx([0.02, 0.05, 0.1, 0.2])
    assert log_ticks([0.008, 0.0151]) == pytest.approx([0.008, 0.01, 0.015])
    assert log_ticks([1.0, 1e6]) == pytest.approx([10.0**e for e in range(7)])


@pytest.mark.slow
@pytest.mark.parametrize("outcome", ["feasible", "infeasible", "predicted"])
def test_a_browser_draws_every_chart_without_a_complaint(
    feasible: dict[str, Any], tmp_path: Path, outcome: str
) -> None:
    if BROWSER is None:
        assert not os.environ.get("GEMMSTONE_BROWSER_REQUIRED"), f"none of {', '.join(BROWSERS)} is installed"
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    made = {"feasible": lambda: feasible, "infeasible": lambda: plan(slo={"ttft": 1e-6}), "predicted": predict}
    charts = {"feasible": CHARTS, "infeasible": ("pareto",), "predicted": OF_A_PREDICTION}
    document = made[outcome]()
    target = tmp_path / "plan.html"
    write_page({**document, "model": f"{document['model']} {EVIL}"}, str(target))
    arguments = (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom",
    )  # fmt: skip
    done = subprocess.run(
        [BROWSER, *arguments, target.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    wanted = {f"chart-{name}" for name in charts[outcome]}
    assert Seen(done.stdout).drawn == wanted
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []

"""The page of a comparison: complete, self-contained, escaped, with the numbers of the document, drawn by a real browser."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gemmstone import api
from gemmstone.compare.document import compare
from gemmstone.compare.subjects import failed, subject
from gemmstone.report import comparison_words as words
from gemmstone.report.comparison_page import MOST_EXPLAINED, page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & <!-- \u2028\x00\x1b[31m"


def prediction(hardware: str = "2xh100-sxm", **choice: Any) -> dict[str, Any]:
    workload = api.Workload(input_tokens=512, output_tokens=128, load=16)
    return api.predict(
        api.Scenario(model="llama-3.1-8b", hardware=hardware, workload=workload, choice=api.Choice(**choice))
    )


@pytest.fixture(scope="module")
def three() -> dict[str, Any]:
    made = {"bf16": prediction(), "fp8": prediction(weights="fp8"), "a100": prediction("2xa100-sxm-80gb")}
    subjects = [subject(name, document) for name, document in made.items()]
    return compare([*subjects, failed("l4", "it does not fit")])


class Seen(HTMLParser):
    """Ids, elements, links, visible text, figures, and the charts that a browser drew."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.drawn: set[str] = set()
        self.text = self.data = ""
        self._inside = self._chart = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.links += [known[name] for name in ("src", "href", "action") if name in known]
        if "id" in known:
            self.ids.append(known["id"])
        if known.get("id", "").startswith("chart-"):
            self._chart = known["id"]
        if "main-svg" in known.get("class", "").split():
            self.drawn.add(self._chart)
        if tag in ("script", "style"):
            self._inside = known.get("id", tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "figures":
            self.data += data
        elif not self._inside:
            self.text += data

    @property
    def figures(self) -> dict[str, Any]:
        return dict(json.loads(self.data))


def test_sections_and_charts(three):
    seen = Seen(page(three))
    sections = ["answer", "metrics", "inputs", "steps", "why-2", "why-3", "memory", "made"]
    assert [name for name in seen.ids if name in sections] == sections
    assert set(seen.figures) == {"metrics", "steps", "why-2", "why-3", "memory"}
    assert {f"chart-{name}" for name in seen.figures} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))
    assert all(link.startswith("#") and link[1:] in seen.ids for link in seen.links)


def test_it_says_what_the_document_says(three):
    text = Seen(page(three)).text
    for entry in three["entries"]:
        assert f"{entry['number']} {entry['name']}" in text
    assert "it does not fit" in text
    for difference in three["differences"]:
        for change in difference["inputs"]:
            assert change["field"] in text
        for name in ("ttft_s", "tpot_s"):
            assert words.number(name, difference["metrics"][name]["value"]) in text
            assert words.ratio(difference["metrics"][name]) in text
        for _, terms in words.steps(difference):
            for term in terms[:3]:
                assert words.signed(term.change_s, "s") in text
    for warning in three["warnings"]:
        assert warning in text
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_a_fall_ends_where_its_step_does(three):
    figures = Seen(page(three)).figures
    for difference in three["differences"]:
        falls = figures[f"why-{difference['number']}"]["data"]
        assert len(falls) == len(difference["tree"]["parts"])
        for fall, step in zip(falls, difference["tree"]["parts"], strict=True):
            assert fall["x"][0] == step["baseline_s"]
            assert fall["x"][-1] == step["value_s"]
            assert math.fsum(fall["x"][:-1]) == pytest.approx(step["value_s"], rel=1e-9)
            assert fall["measure"][0] == "absolute"
            assert fall["measure"][-1] == "total"


def test_stacks_are_as_long_as_their_steps(three):
    figure = Seen(page(three)).figures["steps"]
    first, *others = three["differences"]
    expected = {("prefill step", "1 bf16"): first["tree"]["parts"][0]["baseline_s"]}
    for difference in (first, *others):
        for step in difference["tree"]["parts"]:
            expected[step["name"], f"{difference['number']} {difference['name']}"] = step["value_s"]
    drawn: dict[tuple[str, str], float] = {}
    for trace in figure["data"]:
        for step, answer, value in zip(*trace["y"], trace["x"], strict=True):
            drawn[step, answer] = drawn.get((step, answer), 0.0) + value
    assert len(drawn) == 6
    for bar, value in expected.items():
        assert drawn[bar] == pytest.approx(value, rel=1e-6)


def test_points_have_the_bands_of_the_metrics(three):
    figure = Seen(page(three)).figures["metrics"]
    answered = [entry for entry in three["entries"] if entry["error"] is None]
    points = figure["data"][0]
    assert points["x"] == [entry["metrics"]["ttft_s"]["value"] for entry in answered]
    highs = [x + up for x, up in zip(points["x"], points["error_x"]["array"], strict=True)]
    assert highs == pytest.approx([entry["metrics"]["ttft_s"]["high"] for entry in answered])


def test_every_axis_of_a_quantity_has_a_title(three):
    for name, figure in Seen(page(three)).figures.items():
        axes = [axis for key, axis in figure["layout"].items() if key.startswith("xaxis")]
        assert axes, name
        assert all(axis["title"]["text"] for axis in axes), name


def test_what_comes_from_outside_is_text(three):
    changed = json.loads(json.dumps(three).replace('"gate_up_proj"', json.dumps(EVIL)))
    changed["warnings"] = [EVIL]
    for entry in [*changed["entries"], *changed["differences"]]:
        entry["name"] = entry["title"] = EVIL
    changed["differences"][0]["inputs"][0] |= {"field": EVIL, "value": EVIL}
    seen, plain = Seen(page(changed)), Seen(page(three))
    assert seen.tags.count("script") == plain.tags.count("script") == 3
    assert "img" not in seen.tags
    assert "<script>alert(1)</script>" in seen.text, "it is there to read"
    assert "\x1b" not in seen.text
    assert "<" not in seen.data
    assert "<img" not in json.dumps(seen.figures)


def test_answers_that_say_little():
    def bare(value: float) -> dict[str, Any]:
        return {"schema": "gemmstone/other/1", "metrics": {"speed": value}}

    found = compare([subject("a", bare(1.0)), subject("b", bare(2.0))])
    seen = Seen(page(found))
    assert set(seen.figures) == {"metrics"}
    assert "x2" in seen.text
    nothing = Seen(page(compare([failed("a", "no"), failed("b", "neither")])))
    assert nothing.figures == {}
    assert "neither" in nothing.text


def test_many_answers_have_a_page_of_bounded_length():
    document = prediction()
    found = compare([subject(f"row {i}", document) for i in range(60)])
    seen = Seen(page(found))
    assert sum(name.startswith("why-") for name in seen.ids) <= MOST_EXPLAINED


def test_inputs_that_only_one_has_are_counted_where_they_are_many():
    def inputs(*entries: tuple[str, Any, Any]) -> dict[str, Any]:
        return {"inputs": [{"field": f, "baseline": b, "value": v} for f, b, v in entries]}

    assert words.unlike(inputs(("a", 1, 2.5), ("b", None, True))) == ["a 1 -> 2.5", "b - -> true"]
    many = inputs(("a", 1, 2), *((f"b{i}", None, i) for i in range(6)), ("c", 3, None))
    assert words.unlike(many) == ["a 1 -> 2", "1 only before: c", "6 only after: b0, b1, b2, b3 ..."]


def test_numbers_with_the_unit_of_their_name():
    shown = {
        ("ttft_s", 0.0123): "12.3 ms",
        ("ttft_s.p99", 1.5): "1.5 s",
        ("memory_bytes_per_device", 2e9): "2 GB",
        ("power_w_per_device", 300.0): "300 W",
        ("energy_j_per_output_token", 0.5): "500 mJ",
        ("output_tokens_per_s", 1950.4): "1,950",
        ("output_tokens_per_s_per_device", 243.7): "244",
        ("requests_per_s", 7.6): "7.6",
        ("usd_per_million_output_tokens", 3.363): "3.36",
        ("mfu_frac", 0.304): "30.4%",
        ("completed", 12.0): "12",
    }
    assert {key: words.number(*key) for key in shown} == shown


@pytest.mark.slow
def test_a_browser_draws_every_chart_without_a_complaint(three, tmp_path: Path) -> None:
    if BROWSER is None:
        assert not os.environ.get("GEMMSTONE_BROWSER_REQUIRED"), f"none of {', '.join(BROWSERS)} is installed"
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    target = tmp_path / "compare.html"
    target.write_text(page(three), encoding="utf-8")
    arguments = (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom",
    )  # fmt: skip
    done = subprocess.run(
        [BROWSER, *arguments, target.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert Seen(done.stdout).drawn == {f"chart-{name}" for name in Seen(page(three)).figures}
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []

"""The page of a plan: complete, self-contained, escaped, whole or not there."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gemmstone import api
from gemmstone.core.errors import BadRequest
from gemmstone.plan.search import Question
from gemmstone.report.html import page, write_page

CHARTS = ("pareto", "breakdown", "roofline", "memory", "sensitivity", "curve")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def plan(**asked: Any) -> dict[str, Any]:
    workload = api.Workload(input_tokens=512, output_tokens=128)
    return api.plan(
        Question(**{"model": "llama-3.1-8b", "hardware": ("2xh100-sxm",), "workload": workload, **asked}), detail=True
    )


@pytest.fixture(scope="module")
def feasible() -> dict[str, Any]:
    return plan(slo={"ttft": 2.0, "tpot": 0.05})


class Seen(HTMLParser):
    """Collects ids, headings, links and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append(tag)
        self.open.append(tag)
        if known.get("id"):
            self.ids.append(str(known["id"]))
        self.links += [str(known[name]) for name in ("src", "href") if known.get(name)]

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += data


def test_the_page_is_complete_and_needs_nothing_else(feasible: dict[str, Any]) -> None:
    seen = Seen(page(feasible))
    assert set(CHARTS) <= set(seen.ids)
    assert seen.links == []
    assert feasible["launch"] in seen.text
    assert feasible["best"]["layout"] in seen.text
    for entry in feasible["candidates"]:
        assert entry["layout"] in seen.text


def test_the_charts_hold_the_numbers_of_the_document(feasible: dict[str, Any]) -> None:
    seen = Seen(page(feasible))
    figures = json.loads(seen.scripts[0])
    front = figures["pareto"]["data"][0]
    assert front["y"] == [p["output_tokens_per_s_per_device"] for p in feasible["pareto"]]
    for step, bars in zip(feasible["detail"]["tree"]["parts"], ("prefill step", "decode step"), strict=True):
        shares = [t["x"][0] for t in figures["breakdown"]["data"] if t["y"][0] and t["y"][0].startswith(bars)]
        assert sum(shares) == pytest.approx(100)
        assert step["name"] == bars
    total = sum(trace["x"][0] for trace in figures["memory"]["data"])
    assert total == pytest.approx(feasible["detail"]["memory"]["bytes"] / 1e9)


def test_what_comes_from_outside_is_text(feasible: dict[str, Any]) -> None:
    evil = "</script><script>alert(1)</script>"
    changed = {
        **feasible,
        "model": evil,
        "rejected": [{"reason": evil, "count": 1, "example": evil}],
        "launch_commands": {evil: evil},
    }
    seen = Seen(page(changed))
    assert seen.tags.count("script") == Seen(page(feasible)).tags.count("script")
    assert evil in seen.text


def test_an_infeasible_plan_has_a_page_too() -> None:
    document = plan(slo={"ttft": 1e-6})
    assert document["best"] is None
    seen = Seen(page(document))
    assert document["fallback"]["message"] in seen.text
    assert "pareto" in seen.ids
    nothing = plan(model="llama-3.1-405b")
    assert nothing["fallback"]["candidate"] is None
    assert nothing["fallback"]["message"] in Seen(page(nothing)).text


def test_it_is_written_whole_or_not_at_all(feasible: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "plan.html"
    write_page(feasible, str(target))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.html"]
    assert target.read_text(encoding="utf-8").endswith("</html>")
    (tmp_path / "folder").mkdir()
    for impossible in (tmp_path / "none" / "plan.html", tmp_path / "folder"):
        with pytest.raises(BadRequest, match="cannot write the report"):
            write_page(feasible, str(impossible))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "plan.html"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no browser on this machine")
def test_a_browser_draws_every_chart(feasible: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "plan.html"
    write_page(feasible, str(target))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    done = subprocess.run(
        [
            str(CHROMIUM),
            *options,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=8000",
            "--dump-dom",
            target.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.count('class="main-svg"') >= len(CHARTS)
    assert "CONSOLE" not in done.stderr

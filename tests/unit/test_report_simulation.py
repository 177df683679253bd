"""A simulation in the terminal and as a page: what the document says, nothing that could break out, drawn by a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made_up
import pytest

from gemmstone.report import simulation_words as words
from gemmstone.report.simulation_page import page, write_page
from gemmstone.report.simulation_text import print_simulation
from gemmstone.simulate.outcome import document, slo
from gemmstone.simulate.outcome.summary import Summary
from gemmstone.simulate.outcome.totals import Totals, nothing
from gemmstone.simulate.requests import Served

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & <!-- \u2028\x00\x1b[31m"
GOALS = "mlperf:llama-2-70b-interactive,ttft_p50=100ms,e2e=20s"


def simulated(requests: Served, asked: str = GOALS, of: Totals | None = None, **changed: Any) -> dict[str, Any]:
    goals = slo.parse(asked)
    made = Summary(goals)
    made.add(requests)
    totals = made_up.totals(requests, **changed) if of is None else of
    return {
        "schema": "gemmstone/simulate/1",
        "gemmstone_version": "0.0.1",
        "warnings": document.warnings(totals),
        "model": "llama-3.1-70b",
        "hardware": "8xh100-sxm",
        "traffic": {"name": "poisson", "rate_per_s": 4.0},
        "deployment": {"engine": "vllm"},
        "scheduling": {"policy": "fcfs", "router": "round-robin", "seed": 7},
        **document.found(totals, made, goals),
    }


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    return simulated(made_up.served(3_000, 1, rejected=3, unfinished=2))


class Seen(HTMLParser):
    """Elements, visible text, scripts, and the places where a browser drew a chart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.drawn: set[str] = set()
        self.text = ""
        self._script = False
        self._place = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if "id" in known:
            self.ids.append(known["id"])
            self._place = known["id"] if known["id"].startswith("chart-") else self._place
        if "main-svg" in known.get("class", "").split():
            self.drawn.add(self._place)
        self._script = tag == "script"
        if self._script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data
        else:
            self.text += data

    @property
    def figures(self) -> dict[str, Any]:
        return dict(json.loads(self.scripts[0]))


def printed(found: dict[str, Any], capsys: pytest.CaptureFixture[str], files: tuple[str, ...] = ()) -> str:
    print_simulation(found, files)
    return " ".join(capsys.readouterr().out.split())


def test_the_terminal_says_what_the_document_says(usual: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(usual, capsys, ("page.html",))
    metrics = usual["metrics"]
    for metric in words.LATENCIES:
        assert words.seconds(metrics[metric]["p99"]) in text
    assert "2,995 of 3,000, 3 rejected, 2 unfinished" in text
    assert "misses TTFT p99, TTFT p50" in text
    assert f"{words.percent(metrics['goodput_frac'])} of the requests were served as asked" in text
    assert all(warning in text for warning in usual["warnings"])
    assert "page.html written" in text
    assert not re.search(r"\bnan\b|\binf\b|None", text)


def test_names_cannot_act_on_a_terminal(usual: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_simulation({**usual, "model": EVIL, "warnings": [EVIL]}, [EVIL])
    assert "\x1b[31m" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        (made_up.served(0), "No request arrived."),
        (made_up.served(1), "output tokens/s"),
        (made_up.served(20, rejected=20), "None of 20 requests was served."),
    ],
)
def test_little_or_nothing_is_shown_too(requests: Served, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = simulated(requests, of=nothing(1) if not len(requests.arrival_s) else None, energy_j=float("nan"))
    shown = page(found)
    for text in (printed(found, capsys), Seen(shown).text):
        assert said in text
        assert not re.search(r"\bnan\b|\binf\b|None ms|None s", text)


def test_a_good_run_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = simulated(made_up.served(500), "ttft_p99=100s")
    assert "meets its target; 100% of the requests were served as asked" in printed(found, capsys)
    assert "refused" not in page(found).split("</style>")[1]
    assert words.verdict(simulated(made_up.served(500), "")) == ""


def test_the_page_has_what_the_document_has(usual: dict[str, Any]) -> None:
    seen = Seen(page(usual))
    sections = ("answer", "targets", "latency", "time", "amounts", "replicas", "made")
    assert [name for name in seen.ids if name in sections] == list(sections)
    assert set(seen.figures) == {"latency", "time", "replicas"}
    assert "This misses TTFT p99, TTFT p50" in seen.text
    for warning in usual["warnings"]:
        assert warning in seen.text
    curves = {trace["name"]: trace for trace in seen.figures["latency"]["data"]}
    assert curves["TTFT"]["x"][-1] == usual["metrics"]["ttft_s"]["max"]
    assert curves["TTFT"]["y"][50] == 50.0
    assert curves["TTFT"]["x"][50] == usual["metrics"]["ttft_s"]["p50"]
    goals = {name: trace["marker"]["symbol"] for name, trace in curves.items() if trace["mode"] == "markers"}
    assert goals == {"TTFT p99 missed": "diamond-open", "TPOT p99 met": "diamond", "TTFT p50 missed": "diamond-open"}
    panels = {trace["name"]: trace for trace in seen.figures["time"]["data"]}
    assert set(panels) == {"running", "waiting", "KV cache", "prompts", "output", "power"}, "replicas never change"
    assert panels["waiting"]["y"][:-1] == usual["series"]["queue"]
    for figure in seen.figures.values():
        axes = [axis for key, axis in figure["layout"].items() if key.startswith(("xaxis", "yaxis"))]
        assert all(axis["title"]["text"] for axis in axes)


def test_one_replica_without_targets_or_power_needs_less(capsys: pytest.CaptureFixture[str]) -> None:
    requests = made_up.served(300)
    whole = made_up.totals(requests)
    one = whole.per_replica._make(column[:1] for column in whole.per_replica)
    dark = whole.series._replace(energy_j=whole.series.energy_j * float("nan"))
    found = simulated(requests, "", per_replica=one, series=dark, energy_j=float("nan"))
    seen = Seen(page(found))
    assert set(seen.figures) == {"latency", "time"}
    assert "targets" not in seen.ids
    assert "power" not in {trace["name"] for trace in seen.figures["time"]["data"]}
    assert "energy" not in printed(found, capsys)


def test_what_comes_from_outside_is_text(usual: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(usual))
    changed["model"] = changed["hardware"] = changed["gemmstone_version"] = EVIL
    changed["warnings"] = [EVIL]
    changed["traffic"]["name"] = changed["scheduling"]["router"] = changed["deployment"]["engine"] = EVIL
    seen, plain = Seen(page(changed)), Seen(page(usual))
    assert seen.tags.count("script") == plain.tags.count("script") == 3
    assert "img" not in seen.tags
    assert "<" not in seen.scripts[0]
    assert "<script>alert(1)</script>" in seen.text


def test_a_browser_draws_every_chart_without_a_complaint(usual: dict[str, Any], tmp_path: Path) -> None:
    if BROWSER is None:
        assert not os.environ.get("GEMMSTONE_BROWSER_REQUIRED"), f"none of {', '.join(BROWSERS)} is installed"
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    target = tmp_path / "simulation.html"
    write_page({**usual, "model": EVIL}, str(target))
    arguments = (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom",
    )  # fmt: skip
    done = subprocess.run(
        [BROWSER, *arguments, target.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert Seen(done.stdout).drawn == {"chart-latency", "chart-time", "chart-replicas"}
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []

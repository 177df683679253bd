"""A plan or a prediction as one self-contained HTML page: no file beside it, no network, readable on paper and on a phone.

Plotly's script is taken from the installed package and put into the page; the charts are data until a browser draws them.
Names come from outside: every text is escaped, and a policy in the page allows only the scripts that were put there.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gemmstone.core.errors import MissingBackend
from gemmstone.report import (
    break_even,
    charts,
    energy_section,
    explanations,
    plan_traffic,
    prediction,
    sections,
    tables,
)
from gemmstone.report.figure import Figure
from gemmstone.report.markup import NOTHING, Html, element, island
from gemmstone.store.aside import written_aside

HERE = Path(__file__).parent
HEIGHT_PX = 420  # of a chart that does not say


class Section(NamedTuple):
    """A part of the page: its anchor, title, what to look for, the chart drawn there ("" for none) and what else it shows."""

    name: str
    title: str
    caption: str
    chart: str
    body: Callable[[Mapping[str, Any]], Html]


# Of any one deployment, in the order of the page; a section without chart and body is left out.
DEPLOYMENT = (
    Section("efficiency", "Six numbers of efficiency", "Of the deployment at its load, as the EfficientLLM benchmark defines them.", "", tables.efficiency),
    Section("breakdown", "Where the time goes", "One engine step with prompts in it and one that only decodes, all layers together. Colour says what bounds an operation; "
            "solid is fitted on this device, hatched is borrowed from relatives, dotted or crossed is not measured.", "breakdown", explanations.steps),
    Section("roofline", "Roofline", "Every operation of the two steps below the device's peaks (flat, one a format) and its memory bandwidth (sloped). The larger a dot, the "
            "more of its step it takes; the further below the lines, the more is lost to launches and inefficiency.", "roofline", explanations.roofline_note),
    Section("memory", "Memory of one device", "What fills the memory that the engine may use, on the fullest device, at the chosen load.", "memory", explanations.memory),
    Section("context", "Memory against context", "The fullest device as the context of every running request grows. Shaded: contexts that do not fit at this number of requests.", "context", tables.context),
)  # fmt: skip
LOAD = (
    Section("load", "Throughput and latency against load", "The deployment at other numbers of requests in flight, with the bands that should hold the true value in 80% of cases. "
            "Dashed lines are the targets; what is shaded red misses one.", "curve", tables.loads),
    Section("energy", "Energy and what it is spent on", "Of one output token in the scope that was counted, and of the whole system from the devices to the site.", "", energy_section.section),
    Section("places", "Cost and carbon by place", "The deployment at its load, with electricity of other regions and at other prices. Carbon is CO2 equivalent, from annual averages of a grid, for the energy "
            "as it is counted in the metrics.", "places", tables.places),
    Section("limit", "Distance to the physical limit", "The same deployment and load if every operation ran at the datasheet's peaks.", "", explanations.limit),
    Section("break-even", "Against an API", "From which load on the system costs less than an API that charges by the token.", "", break_even.section),
    Section("made", "How these numbers were made", "", "", explanations.made),
)  # fmt: skip
PLAN = (
    Section("answer", "", "", "", sections.headline),
    Section("launch", "Start it", "Ready for a shell; comments say what has to be there first.", "", sections.launch),
    Section("candidates", "Candidates", "Best first, each at the load that suits the objective best within the targets; below a number, the band of 80%.", "", sections.candidates),
    Section("traffic", "On the traffic", "What requests see at other rates, simulated request by request: percentiles of the first token and of a token, with the targets. "
            "Between the rates, the largest at which all targets are met.", "rates", plan_traffic.section),
    Section("pareto", "Throughput against speed", "Deployments and loads that no other beats in both directions: further up is cheaper, further right is faster for "
            "each user. Filled points meet all targets, hollow ones miss one. Hover or tap for what a point is.", "pareto", tables.front),
    *DEPLOYMENT,
    Section("sensitivity", "What 10% more would bring", "One resource at a time for the chosen deployment: latencies at the same requests a second, throughput at the best load that still meets the targets. "
            "Blue improves, orange worsens.", "sensitivity", explanations.sensitivity),
    *LOAD,
)  # fmt: skip
PREDICTION = (Section("answer", "", "", "", prediction.headline), *DEPLOYMENT, *LOAD)


def write_page(document: Mapping[str, Any], path: str) -> None:
    """Writes the page of a document made with `detail=True`, whole or not at all. Raises BadRequest where it cannot be written."""
    text = page(document)
    with written_aside(path, "replace") as file:
        file.write(text)


def page(document: Mapping[str, Any]) -> str:
    """The page of a plan or a prediction as text; parts that the document has no data for are left out."""
    if document["schema"].startswith(prediction.SCHEMA):
        shown = prediction.as_plan(document)
        return whole(f"{document['model']}: prediction by Gemmstone", PREDICTION, shown, charts.figures(shown))
    return whole(f"Serving {document['model']}: plan by Gemmstone", PLAN, document, charts.figures(document))


def whole(title: str, sections: tuple[Section, ...], document: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    """A page of any sections and the figures they name, with its style and scripts in it; empty sections are left out."""
    built = [(section, _section(section, document, figures)) for section in sections]
    built = [(section, markup) for section, markup in built if markup]
    links = [element("a", section.title, href=f"#{section.name}") for section, _ in built if section.title]
    navigation = element("nav", *links, aria_label="sections")
    first, *others = [markup for _, markup in built]
    scripts = (_plotly(), _read("page.js"))
    head = (
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(_read("page.css"))),
    )
    body = (
        element("main", first, navigation, *others),
        element("script", island(figures), type="application/json", id="figures"),
        *(element("script", Html(script)) for script in scripts),
    )
    return f"<!doctype html>\n{element('html', element('head', *head), element('body', *body), lang='en')}\n"


def _section(section: Section, document: Mapping[str, Any], figures: Mapping[str, Figure]) -> Html:
    body = section.body(document)
    drawn = NOTHING
    if section.chart in figures:
        height = figures[section.chart]["layout"].get("height", HEIGHT_PX)
        place = element(
            "div",
            id=f"chart-{section.chart}",
            class_="chart",
            style=f"min-height:{height}px",
            role="img",
            aria_label=section.title,
        )
        drawn = element("figure", place, element("noscript", "This chart needs JavaScript; the tables do not."))
    if not (body or drawn):
        return NOTHING
    return element(
        "section",
        element("h2", section.title) if section.title else NOTHING,
        element("p", section.caption, class_="soft") if section.caption else NOTHING,
        drawn,
        body,
        id=section.name,
    )


def _policy(scripts: tuple[str, ...]) -> str:
    """A Content-Security-Policy that lets these scripts run and nothing else, and nothing be loaded from anywhere."""
    allowed = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Plotly's script. Found without importing the package, which would take longer than the search itself."""
    found = importlib.util.find_spec("plotly")
    for folder in (found.submodule_search_locations or []) if found else []:
        script = Path(folder) / "package_data" / "plotly.min.js"
        if script.is_file():
            return script.read_text(encoding="utf-8").replace("</script", "<\\/script").replace("<!--", "<\\!--")
    raise MissingBackend("the report needs plotly: pip install plotly")

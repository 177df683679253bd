"""The plan as one self-contained HTML page: no file beside it, no network, readable on paper and on a phone.

Plotly's script is taken from the installed package and put into the page; the charts are data until a browser draws them.
All text is escaped: model names and error messages come from outside.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from gemmstone.core import units
from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.report import charts

HERE = Path(__file__).parent
RESOURCES = {
    "compute": "arithmetic",
    "memory": "memory bandwidth",
    "network": "links",
    "host": "the host",
    "launch": "launches",
}


def write_page(document: Mapping[str, Any], path: str) -> None:
    """Writes the page of a plan made with `detail=True`; aside first, so that a failure leaves nothing behind."""
    text = page(document)
    target = Path(path)
    try:
        descriptor, aside = tempfile.mkstemp(dir=target.parent, prefix=".gemmstone-", suffix=".html")
    except OSError as error:
        raise BadRequest(f"cannot write the report {path}: {error.strerror or error}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(aside).chmod(0o644)
        Path(aside).replace(target)
    except OSError as error:
        Path(aside).unlink(missing_ok=True)
        raise BadRequest(f"cannot write the report {path}: {error.strerror or error}") from None


def page(document: Mapping[str, Any]) -> str:
    """The whole page as text."""
    sections = [_headline(document), _launch(document), _candidates(document)]
    figures: dict[str, charts.Figure] = {}
    if document["pareto"]:
        figures["pareto"] = charts.pareto(document)
        sections.append(
            _figure(
                "pareto",
                "Throughput against speed",
                "Each point is a deployment at a load that no other beats in both: tokens/s that a device earns, and "
                "tokens/s that one user sees. Hover for what it is.",
            )
        )
    detail = document.get("detail")
    if detail:
        chosen = document["best"]["concurrency"]
        figures["breakdown"] = charts.breakdown(detail["tree"])
        figures["roofline"] = charts.roofline(detail["roofline"])
        figures["memory"] = charts.memory(detail["memory"])
        figures["sensitivity"] = charts.sensitivity(document["sensitivity"])
        figures["curve"] = charts.curve(detail["curve"], document["slo"], chosen)
        sections += [
            _figure("breakdown", "Where the time goes", _bounds(document["best"])),
            _figure(
                "roofline",
                "Roofline",
                "Every operation of the chosen deployment under the peaks and the bandwidth of one device. The larger a "
                "dot, the more of its step it takes; the further below the line, the more is lost to launches and overheads.",
            ),
            _figure("memory", "Memory of a device", "", _memory_table(detail["memory"])),
            _figure("sensitivity", "What ten percent more would bring", "One resource at a time, the load held."),
            _figure("curve", "Load", "The chosen deployment at other loads; dashed: its load, and the targets."),
        ]
    sections.append(_made(document))
    title = f"Serving {document['model']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_read('page.css')}</style></head><body><main>{''.join(sections)}</main>"
        f'<script type="application/json" id="figures">{_island(figures)}</script>'
        f"<script>{_plotly()}</script><script>{_read('page.js')}</script></body></html>"
    )


def _island(data: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Plotly's script. Found without importing the package, which would take longer than the search itself."""
    found = importlib.util.find_spec("plotly")
    for folder in (found.submodule_search_locations or []) if found else []:
        script = Path(folder) / "package_data" / "plotly.min.js"
        if script.is_file():
            return script.read_text(encoding="utf-8").replace("</script", "<\\/script")
    raise MissingBackend("the report needs plotly: pip install plotly")


def _headline(document: Mapping[str, Any]) -> str:
    work = document["workload"]
    asked = f"{work['input_tokens']:g} tokens in, {work['output_tokens']:g} out"
    slo = ", ".join(
        f"{name.removesuffix('_s').upper()} at most {units.show(v, 's')}" for name, v in document["slo"].items()
    )
    best = document["best"]
    if best is None:
        answer = f'<p class="answer">{escape(document["fallback"]["message"])}.</p>'
        cards = _cards(document["fallback"]["candidate"]) if document["fallback"]["candidate"] else ""
    else:
        answer = (
            f'<p class="answer">Best for {escape(document["objective"])}: <b>{escape(best["layout"])}</b> on '
            f"{escape(best['hardware'])} with {escape(best['engine'])}, {best['concurrency']:.0f} requests in flight.</p>"
        )
        cards = _cards(best)
    notes = "".join(f"<li>{escape(note)}</li>" for note in [*document["warnings"], *(best["notes"] if best else [])])
    refused = "" if best else ' class="refused"'
    return (
        f"<section{refused}><h1>Serving {escape(document['model'])}</h1>"
        f'<p class="soft">{escape(asked)}; {escape(slo or "no latency targets")}; {document["searched"]} deployments '
        f"searched, {document['feasible']} meet the targets</p>{answer}{cards}"
        f'<ul class="soft">{notes}</ul></section>'
    )


def _cards(entry: Mapping[str, Any]) -> str:
    shown: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("output_tokens_per_s", "tokens/s", lambda v: f"{v:,.0f}"),
        ("ttft_s", "time to first token", lambda v: units.show(v, "s")),
        ("tpot_s", "time per token", lambda v: units.show(v, "s")),
        ("usd_per_million_output_tokens", "USD per million tokens", lambda v: f"{v:,.2f}"),
        ("energy_j_per_output_token", "energy per token", lambda v: units.show(v, "j")),
        ("gco2_per_million_output_tokens", "g CO2 per million tokens", lambda v: f"{v:,.0f}"),
    )
    cards = []
    for name, label, form in shown:
        metric = entry["metrics"].get(name)
        if metric:
            band = f"{form(metric['low'])} to {form(metric['high'])}"
            cards.append(f'<div class="card"><b>{form(metric["value"])}</b>{label}<span>{band}</span></div>')
    return (
        f'<div class="cards">{"".join(cards)}</div><p class="soft">Small print: the band that holds 80% of cases.</p>'
    )


def _launch(document: Mapping[str, Any]) -> str:
    commands = document["launch_commands"]
    if not commands:
        return ""
    first, *others = commands.items()
    blocks = f'<pre id="launch-0">{escape(first[1])}</pre><button data-copy="launch-0">copy</button>'
    for number, (engine, text) in enumerate(others, start=1):
        blocks += (
            f'<details><summary>with {escape(engine)}</summary><pre id="launch-{number}">{escape(text)}</pre></details>'
        )
    return f"<section><h2>Start it with {escape(first[0])}</h2>{blocks}</section>"


def _candidates(document: Mapping[str, Any]) -> str:
    entries = document["candidates"] or [c for c in [(document["fallback"] or {}).get("candidate")] if c]
    rows = "".join(_row(entry, best=bool(document["best"]) and i == 0) for i, entry in enumerate(entries))
    head = "".join(
        f"<th>{name}</th>"
        for name in (
            "deployment",
            "in flight",
            "TTFT",
            "TPOT",
            "tokens/s",
            "per device",
            "USD/M",
            "J/token",
            "decode bound by",
        )
    )
    table = (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>' if rows else ""
    )
    rejected = "".join(
        f"<li>{entry['count']} x {escape(entry['reason'])}, for example: {escape(entry['example'])}</li>"
        for entry in document["rejected"]
    )
    dropped = f"<details><summary>what was rejected, and why</summary><ul>{rejected}</ul></details>" if rejected else ""
    return f"<section><h2>Candidates</h2>{table}{dropped}</section>"


def _row(entry: Mapping[str, Any], *, best: bool) -> str:
    metrics = entry["metrics"]

    def value(name: str, form: str) -> str:
        return form.format(metrics[name]["value"]) if name in metrics else "-"

    cells = (
        f"{entry['concurrency']:.0f}",
        units.show(metrics["ttft_s"]["value"], "s"),
        units.show(metrics["tpot_s"]["value"], "s"),
        value("output_tokens_per_s", "{:,.0f}"),
        value("output_tokens_per_s_per_device", "{:,.0f}"),
        value("usd_per_million_output_tokens", "{:.2f}"),
        value("energy_j_per_output_token", "{:.2f}"),
        RESOURCES.get(entry["bound"]["decode"], entry["bound"]["decode"]),
    )
    name = escape(f"{entry['hardware']} {entry['engine']} {entry['layout']}")
    return f"<tr{' class=best' if best else ''}><td>{name}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _bounds(best: Mapping[str, Any]) -> str:
    bound = best["bound"]
    return (
        f"Computing prompts is bound by {RESOURCES[bound['prefill']]}, decoding by {RESOURCES[bound['decode']]}. "
        "Each block is an operation over all layers, coloured by what bounds it."
    )


def _memory_table(node: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(part['name'])}</td><td>{units.show(part['bytes'], 'bytes')}</td>"
        f"<td>{100 * part['bytes'] / node['bytes']:.1f}%</td></tr>"
        for part in node["parts"]
    )
    return f'<div class="scroll"><table><thead><tr><th>what</th><th>bytes</th><th>share</th></tr></thead><tbody>{rows}</tbody></table></div>'


def _figure(name: str, title: str, caption: str, after: str = "") -> str:
    return (
        f'<section><h2>{escape(title)}</h2><p class="soft">{escape(caption)}</p><figure><div class="chart" id="{name}"></div></figure>'
        f"{after}</section>"
    )


def _made(document: Mapping[str, Any]) -> str:
    best, detail = document["best"], document.get("detail")
    distance = ""
    if best and detail:
        limit, metrics = detail["limit"], best["metrics"]
        share = metrics["output_tokens_per_s"]["value"] / limit["output_tokens_per_s"]
        distance = (
            f"<p>At this load the datasheet's peaks would allow {limit['output_tokens_per_s']:,.0f} tokens/s and "
            f"{units.show(limit['tpot_s'], 's')} a token: the deployment is predicted at {100 * share:.0f}% of the "
            "physical limit.</p>"
        )
    return (
        f"<section><h2>How these numbers were made</h2>{distance}<p class='soft'>Gemmstone "
        f"{escape(document['gemmstone_version'])}, fidelity {escape(document['fidelity'])}: operations of the model priced with "
        "coefficients that were fitted on measured kernels, joined by formulas of continuous batching whose engine terms were "
        "fitted on measured deployments. Bands hold 80% of cases on groups outside the fit.</p></section>"
    )

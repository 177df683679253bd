"""The sections that give the answer: headline, launch commands, candidates. Each is a function from the document to markup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.core import units
from gemmstone.report import plan_traffic
from gemmstone.report.markup import NOTHING, Html, element, join, table
from gemmstone.report.quantities import QUANTITIES, engine, hardware, number, quantity, shown

Document = Mapping[str, Any]
CANDIDATE_HEADERS = (
    "deployment", "in flight", "TTFT", "TPOT", "tokens/s", "a device", "a user", "USD/M", "J/token", "memory", "bound by",
)  # fmt: skip


def headline(document: Document) -> Html:
    """What was asked, the answer in one sentence, the main numbers with their bands, and the warnings."""
    best, fallback = document["best"], document["fallback"] or {}
    shown = best or fallback.get("candidate")
    where = best["hardware"] if best else (shown or {}).get("hardware", "")
    title = f"Serving {document['model']}" + (f" on {hardware(where)}" if where else "")
    answer = (
        element("p", _sentence(best), class_="answer")
        if best
        else element("p", *_refusal(fallback), class_="answer refused")
    )
    notes = [*document["warnings"], *(shown["notes"] if shown else [])]
    return join(
        (
            element("h1", title),
            element("p", _question(document), class_="soft"),
            answer,
            element("p", spelled_out(shown), class_="soft") if shown else NOTHING,
            cards(shown, document["slo"]) if shown else NOTHING,
            element("ul", *(element("li", note) for note in notes), class_="notes") if notes else NOTHING,
        )
    )


def _question(document: Document) -> str:
    work, slo = document["workload"], document["slo"]
    spread = f", spread {work['length_spread']:g}" if work["length_spread"] else ""
    targets = ", ".join(f"{plan_traffic.target(name)} at most {units.show(bound, 's')}" for name, bound in slo.items())
    rate = f", at least {document['rate']:g} requests/s" if document["rate"] is not None else ""
    traffic = f" Simulated on {document['traffic']['name']}." if document.get("traffic") else ""
    return (
        f"Requests of {work['input_tokens']:,.0f} tokens in and {work['output_tokens']:,.0f} out{spread}. Targets: "
        f"{targets or 'no latency targets'}{rate}. Objective: {document['objective']}. "
        f"{document['searched']:,} deployments searched, {document['feasible']:,} meet the targets.{traffic}"
    )


def _sentence(best: Mapping[str, Any]) -> Html:
    """The answer, for a reader who reads nothing else."""
    metrics = best["metrics"]
    pieces: list[object] = [
        "Run ", element("b", best["layout"]), f" on {hardware(best['hardware'])} with {engine(best['engine'])} at "
        f"{best['concurrency']:,.0f} requests in flight: ", element("b", f"{shown(metrics, 'output_tokens_per_s')} output tokens/s"),
        f", a first token after {shown(metrics, 'ttft_s')}, then one every {shown(metrics, 'tpot_s')}",
    ]  # fmt: skip
    if "sustained_rate_per_s" in metrics:
        pieces[2:3] = [
            f" on {hardware(best['hardware'])} with {engine(best['engine'])}: it sustains ", element("b", f"{shown(metrics, 'sustained_rate_per_s')} requests/s"),
            f". At {shown(metrics, 'requests_per_s')}, {best['concurrency']:,.0f} requests in flight: ",
        ]  # fmt: skip
    if "usd_per_million_output_tokens" in metrics:
        pieces.append(f", for {shown(metrics, 'usd_per_million_output_tokens')} USD")
    if "energy_j_per_output_token" in metrics:
        kwh = metrics["energy_j_per_output_token"]["value"] / 3.6
        joined = " and" if "usd_per_million_output_tokens" in metrics else ", for"
        pieces.append(f"{joined} {kwh:.2g} kWh")
    if {"usd_per_million_output_tokens", "energy_j_per_output_token"} & set(metrics):
        pieces.append(" per million output tokens")
    return join([*pieces, "."])


def spelled_out(entry: Mapping[str, Any]) -> str:
    """The layout in words, for a reader who does not know the letters."""
    run = entry["deployment"]
    if "prefill" in run and "decode" in run:
        pools = [
            f"{pool['workers']} {name} worker{'' if pool['workers'] == 1 else 's'} on {hardware(pool['hardware'])}, each "
            f"{_in_words(pool)}"
            for name, pool in (("prefill", run["prefill"]), ("decode", run["decode"]))
        ]
        return f"In words: {'; '.join(pools)}."
    return f"In words: {_in_words(run)}."


def _in_words(run: Mapping[str, Any]) -> str:
    degrees = (
        ("tp", run["tensor_parallel"], "tensor-parallel devices a stage"),
        ("pp", run["pipeline_parallel"], "pipeline stages"),
        ("adp", run["attention_dp"], "data-parallel groups for attention"),
        ("ep", run["expert_parallel"], "expert-parallel groups"),
        ("dp", run["data_parallel"], "replicas of the model"),
    )
    split = "; ".join(f"{name}{degree}: {degree} {words}" for name, degree, words in degrees if degree > 1)
    formats = f"weights in {run['weights']}, products in {run['activations']}, cache in {run['kv_cache']}"
    most = f"; at most {run['max_num_seqs']:,} running requests a rank" if run["max_num_seqs"] else ""
    return f"{split or 'one device, no split'}; {formats}{most}"


def _refusal(fallback: Mapping[str, Any]) -> list[object]:
    message = str(fallback.get("message") or "no deployment meets the targets")
    return [element("b", "No feasible answer: "), f"{message}."]


def cards(entry: Mapping[str, Any], slo: Mapping[str, float]) -> Html:
    made = []
    bounded = [name for name in slo if name not in QUANTITIES]
    for name in (*QUANTITIES, *bounded):
        metric = entry["metrics"].get(name)
        if metric is None or name == "requests_per_s":
            continue
        target = _against(metric, slo[name]) if name in slo else NOTHING
        band = element("span", f"{number(name, metric['low'])} to {number(name, metric['high'])}", class_="band")
        made.append(
            element(
                "div",
                element("span", quantity(name).label, class_="label"),
                element("b", number(name, metric["value"])),
                band,
                target,
                class_="card",
            )
        )
    caption = element(
        "p", "Below each number: the band that should hold the true value in 80% of cases.", class_="soft"
    )
    return join((element("div", *made, class_="cards"), caption))


def _against(metric: Mapping[str, float], bound: float) -> Html:
    target = units.show(bound, "s")
    if metric["value"] > bound:
        return element("span", f"misses the target of {target}", class_="missed")
    if metric["high"] > bound:
        return element("span", f"meets {target}; the band reaches beyond", class_="close")
    return element("span", f"meets {target}, band included", class_="met")


def launch(document: Document) -> Html:
    """The command that starts the best deployment, and those of other engines below."""
    commands = document["launch_commands"]
    if not commands:
        return NOTHING
    chosen = document["best"]["engine"] if document["best"] else ""
    pieces = []
    for i, (name, command) in enumerate(commands.items()):
        place = f"launch-{i}"
        block = join(
            (
                element("pre", element("code", command), id=place),
                element(
                    "button",
                    "Copy",
                    type="button",
                    data_copy=place,
                    aria_label=f"copy the command for {engine(name)}",
                ),
            )
        )
        if i == 0 and name == chosen:
            pieces.append(element("div", element("h3", f"{engine(name)}, as predicted"), block))
        else:
            pieces.append(element("details", element("summary", f"The same deployment with {engine(name)}"), block))
    return join(pieces)


def candidates(document: Document) -> Html:
    """The best deployments with their metrics and what bounds them; why others fell out."""
    nearest = (document["fallback"] or {}).get("candidate")
    entries = document["candidates"] or ([nearest] if nearest else [])
    pieces = []
    if entries:
        best = document["best"] is not None
        more = [column for column in _of_traffic(document) if column[0] not in ("tokens/s", "USD/M", "J/token")]
        headers = (*CANDIDATE_HEADERS[:1], *(header for header, _, _ in more), *CANDIDATE_HEADERS[1:])
        shown: list[list[object]] = [_candidate(e, *(cell(e) for _, cell, _ in more)) for e in entries]
        pieces.append(table(headers, shown, words=(0, 10 + len(more)), label="candidates", first=best))
    if document["rejected"]:
        pieces.append(element("h3", "Rejected"))
        rows = [(entry["reason"], f"{entry['count']:,}", entry["example"]) for entry in document["rejected"]]
        pieces.append(table(("reason", "how many", "for example"), rows, words=(0, 2), label="rejected deployments"))
    return join(pieces)


def _of_traffic(document: Document) -> tuple[plan_traffic.Column, ...]:
    return plan_traffic.columns(document) if document.get("traffic") else ()


def _layout(layout: str) -> tuple[str, str]:
    """A layout as its degrees and its formats, which are the last four words: `fp8 weights, fp8 cache`."""
    words = layout.rsplit(" ", 4)
    return (words[0], " ".join(words[1:])) if len(words) == 5 else (layout, "")


def _candidate(entry: Mapping[str, Any], *of_traffic: str) -> list[object]:
    metrics, bound = entry["metrics"], entry["bound"]
    split, formats = _layout(entry["layout"])
    place = f"{hardware(entry['hardware'])}, {engine(entry['engine'])}"
    name = join((element("b", split), *(element("span", line, class_="below") for line in (formats, place))))
    cost = metrics.get("usd_per_million_output_tokens")
    energy = metrics.get("energy_j_per_output_token")
    return [
        name,
        *of_traffic,
        f"{entry['concurrency']:,.0f}",
        *(_with_band(metrics, key) for key in ("ttft_s", "tpot_s", "output_tokens_per_s")),
        *(units.show(metrics[f"output_tokens_per_s_per_{who}"]["value"], "count") for who in ("device", "user")),
        f"{cost['value']:,.2f}" if cost else "-",
        f"{energy['value']:.2f}" if energy else "-",
        units.show(metrics["memory_bytes_per_device"]["value"], "bytes"),
        join((f"prefill: {bound['prefill']}", element("span", f"decode: {bound['decode']}", class_="below"))),
    ]


def _with_band(metrics: Mapping[str, Any], name: str) -> Html:
    metric = metrics[name]
    band = f"{number(name, metric['low'])} to {number(name, metric['high'])}"
    return join((number(name, metric["value"]), element("span", band, class_="below")))

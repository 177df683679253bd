"""Answers as terminal tables that a person enjoys reading."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gemmstone.core import units
from gemmstone.report import energy_text, memory_text, plan_traffic
from gemmstone.report.break_even import sentences

# metric -> (label, dimension), in the order shown
SHOWN: dict[str, tuple[str, str]] = {
    "ttft_s": ("time to first token", "s"),
    "tpot_s": ("time per output token", "s"),
    "e2e_s": ("request latency", "s"),
    "output_tokens_per_s": ("output tokens/s", "count"),
    "output_tokens_per_s_per_device": ("  per device", "count"),
    "output_tokens_per_s_per_user": ("  per user", "count"),
    "requests_per_s": ("requests/s", "count"),
    "achieved_concurrency": ("requests in flight", "count"),
    "memory_bytes_per_device": ("memory per device", "bytes"),
    "kv_capacity_tokens": ("KV cache, tokens", "count"),
    "power_w_per_device": ("power per device", "w"),
    "energy_j_per_output_token": ("energy per token", "j"),
    "usd_per_million_output_tokens": ("USD per million tokens", "count"),
    "gco2_per_million_output_tokens": ("g CO2 per million tokens", "count"),
    "mfu_frac": ("MFU", "count"),
    "mbu_frac": ("MBU of decode", "count"),
}
NARROW = 100  # below, tables of many columns have next to no space between them
WIDE = 110  # columns from which candidates are shown with their bands, runs with where they were measured
TOP_TERMS = 6
MAIN_TERMS = 4  # of a step, where a line has to do
SMALLEST_CHANGE = 0.0005  # that is shown with its sign
# metrics of the best plan shown beside their limit -> whether more is better; None: no distance that means something
OF_THE_BEST: dict[str, bool | None] = {
    "ttft_s": False,
    "tpot_s": False,
    "output_tokens_per_s": True,
    "energy_j_per_output_token": False,
    "usd_per_million_output_tokens": False,
    "gco2_per_million_output_tokens": False,
    "power_w_per_device": None,
    "mfu_frac": None,
    "mbu_frac": None,
}


def opened(width_piped: int | None = None) -> Console:
    """The terminal; a pipe or a file has no width and gets `width_piped`, or rich's 80 columns."""
    console = Console(highlight=False, soft_wrap=False, markup=False, emoji=False)
    if width_piped and not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = width_piped
    return console


def gap(console: Console) -> tuple[int, int]:
    """The padding of a table of many columns, above and beside: next to none where a column would be cut off otherwise.

    >>> gap(Console(width=80)), gap(Console(width=140))
    ((0, 0), (0, 1))
    """
    return 0, int(console.width >= NARROW)


def printable(value: Any) -> Any:
    """`value` with every text in it spelled out where a terminal would act on it: names come from files and requests."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in value)
    if isinstance(value, Mapping):
        return {printable(key): printable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [printable(entry) for entry in value]
    return value


def _number(name: str, value: float) -> str:
    _, dimension = SHOWN[name]
    if name.endswith("_frac"):
        return f"{100 * value:.0f}%"
    return units.show(value, dimension)


def grid(*columns: str) -> Table:
    """A table with the look of all others: words first, numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        # What a user types next must not be cut: it breaks over two lines where a terminal is narrow.
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def print_prediction(document: Mapping[str, Any], page: str | None = None) -> None:
    """One predicted deployment: metrics with bands beside the physical limit, time by term, memory."""
    console, document = opened(), printable(document)
    run, work = document["deployment"], document["workload"]
    console.print(Text(f"{document['model']} on {document['hardware']} with {run['engine']}", style="bold"))
    console.print(f"{_layout(run)}; {_workload(work)}; fidelity {document['fidelity']}")
    table = grid("metric", "predicted", "80% band", "physical limit")
    for name in SHOWN:
        metric = document["metrics"].get(name)
        if metric is not None:
            band = f"{_number(name, metric['low'])} to {_number(name, metric['high'])}"
            limit = document["limit"].get(name)
            table.add_row(
                SHOWN[name][0],
                _number(name, metric["value"]),
                band,
                "" if limit is None else _number(name, limit["value"]),
            )
    console.print(table)
    bound = document["bound"]
    console.print(
        Text.assemble("prefill is bound by ", (bound["prefill"], "bold"), ", decode by ", (bound["decode"], "bold"))
    )
    _print_steps(console, document["tree"])
    console.print(*memory_text.trees(document), *energy_text.lines(document.get("energy")), sep="\n")
    _print_warnings(console, document["warnings"])
    if page:
        console.print(f"report written to {printable(page)}")


def print_plan(document: Mapping[str, Any], page: str | None) -> None:
    """The ranked candidates, why others fell out, what would help, and the command that starts the best."""
    console, document = opened(), printable(document)
    slo = ", ".join(f"{name.removesuffix('_s')} <= {units.show(bound, 's')}" for name, bound in document["slo"].items())
    sent = plan_traffic.sent(document)
    console.print(Text(f"{document['model']}, {sent or _workload(document['workload'])}", style="bold"))
    console.print(f"targets: {slo or 'none'}; objective: {document['objective']}")
    console.print(
        f"{document['searched']} deployments searched, {document['feasible']} meet the targets{_untried(document)}"
    )
    if document["best"] is None:
        console.print(Text(document["fallback"]["message"], style="bold red"))
        if document["fallback"]["candidate"]:
            _print_candidates(console, [document["fallback"]["candidate"]], document)
    else:
        _print_candidates(console, document["candidates"], document)
        _print_best(console, document["best"])
        _print_sensitivity(console, document["sensitivity"])
    if document.get("break_even"):
        console.print(Text("against an API", style="bold"))
        for sentence in sentences(document["break_even"]):
            console.print(sentence)
    for entry in document["rejected"]:
        console.print(Text(f"rejected {entry['count']}: {entry['reason']} ({entry['example']})", style="dim"))
    _print_warnings(console, document["warnings"])
    if document["launch"]:
        console.print(Text("start the best with:", style="bold"))
        print(document["launch"])
    if page:
        console.print(f"report written to {printable(page)}")


def _untried(document: Mapping[str, Any]) -> str:
    """How to widen the search, where prefill and decode pools were left out of it unasked."""
    left_out = document["serving"] == "auto" and not document["pools_tried"]
    return " (--serving both adds prefill and decode pools)" if left_out else ""


def _print_candidates(console: Console, entries: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> None:
    """Deployments in rows; what all of them share stands above, and a narrow terminal gets the main columns alone."""
    places = {f"{entry['hardware']} with {entry['engine']}" for entry in entries}
    shared, wide = len(places) == 1, console.width >= WIDE
    if shared:
        console.print(Text(places.pop(), style="bold"))
    columns = plan_traffic.columns(document) if document.get("traffic") else CANDIDATE_COLUMNS
    table = grid("deployment", *(name for name, _, always in columns if always or wide))
    for entry in entries:
        where = "" if shared else f"{entry['hardware']} {entry['engine']} "
        layout = entry["layout"].replace(" weights, ", ", ").removesuffix(" cache")
        cells = (show(entry) for _, show, always in columns if always or wide)
        table.add_row(f"{where}{layout} kv", *cells)
    console.print(table)


def _seconds(entry: Mapping[str, Any], name: str) -> str:
    return units.show(entry["metrics"][name]["value"], "s")


def _value(entry: Mapping[str, Any], name: str, form: str) -> str:
    return form.format(entry["metrics"][name]["value"]) if name in entry["metrics"] else "-"


# header -> what a row shows there, and whether it has a place on a narrow terminal too
CANDIDATE_COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any]], str], bool], ...] = (
    ("in flight", lambda entry: f"{entry['concurrency']:.0f}", True),
    ("TTFT", lambda entry: _seconds(entry, "ttft_s"), True),
    ("TPOT", lambda entry: _seconds(entry, "tpot_s"), True),
    ("tokens/s", lambda entry: _value(entry, "output_tokens_per_s", "{:,.0f}"), True),
    ("per device", lambda entry: _value(entry, "output_tokens_per_s_per_device", "{:,.0f}"), False),
    ("USD/M", lambda entry: _value(entry, "usd_per_million_output_tokens", "{:.2f}"), True),
    ("J/token", lambda entry: _value(entry, "energy_j_per_output_token", "{:.2f}"), False),
    ("bound by", lambda entry: entry["bound"]["decode"], False),
)


def _print_best(console: Console, best: Mapping[str, Any]) -> None:
    """The best beside the physical limit, what its steps are made of, its memory, and what it gives up."""
    rate = (
        f"{_number('requests_per_s', best['metrics']['requests_per_s']['value'])} requests/s, "
        if "trials" in best
        else ""
    )
    console.print(
        Text(f"the best, {best['layout']}, at {rate}{best['concurrency']:.0f} requests in flight", style="bold")
    )
    table = grid("", "predicted", "80% band", "limit", "reached")
    for name, more in OF_THE_BEST.items():
        metric, limit = best["metrics"].get(name), best["limit"].get(name)
        if metric is not None and limit is not None:
            band = f"{_number(name, metric['low'])} to {_number(name, metric['high'])}"
            cells = (_number(name, metric["value"]), band, _number(name, limit["value"]))
            table.add_row(SHOWN[name][0].strip(), *cells, _reached(metric["value"], limit["value"], more))
    console.print(table)
    if best.get("trials"):
        table = grid(*plan_traffic.TRIED)
        table.columns[-1].justify = "left"
        for row in plan_traffic.tried(best):
            table.add_row(*row)
        console.print(table)
    for step in best["tree"]["parts"]:
        console.print(
            f"{step['name']}, {units.show(step['time_s'], 's')}, bound by {step['bound']}: {_main_terms(step)}"
        )
    console.print(*memory_text.trees(best, depth=1), *energy_text.lines(best.get("energy")), sep="\n")
    for note in best["notes"]:
        console.print(Text(f"note: {note}", style="yellow"))


def _reached(value: float, limit: float, more: bool | None) -> str:
    """How much of what physics allows is reached; a dash where that has no meaning."""
    if more is None or not (value > 0 and limit > 0):
        return "-"
    return f"{100 * (value / limit if more else limit / value):.0f}%"


def _main_terms(step: Mapping[str, Any]) -> str:
    """The largest terms of a step with their share of its time."""
    times: dict[str, float] = {}
    for leaf in _leaves(step):
        times[leaf["name"]] = times.get(leaf["name"], 0.0) + leaf["time_s"]
    largest = sorted(times.items(), key=lambda term: -term[1])[:MAIN_TERMS]
    return ", ".join(f"{name} {100 * time_s / step['time_s']:.0f}%" for name, time_s in largest if time_s > 0)


def _change(fraction: float) -> str:
    return f"{100 * fraction:+.1f}%" if abs(fraction) >= SMALLEST_CHANGE else "0%"


def _print_sensitivity(console: Console, changes: Mapping[str, Mapping[str, float]]) -> None:
    """Latencies at the same requests/s, throughput at the load that then serves the targets best."""
    table = grid("+10% of", "TTFT", "TPOT", "best tokens/s", "KV capacity")
    for resource, change in changes.items():
        names = ("ttft_s", "tpot_s", "output_tokens_per_s", "kv_capacity_tokens")
        table.add_row(resource.replace("_", " "), *(_change(change[name]) for name in names))
    console.print(table)
    console.print(Text("latencies at the same requests/s, tokens/s at the best load within the targets", style="dim"))


def _print_steps(console: Console, tree: Mapping[str, Any]) -> None:
    for step in tree["parts"]:
        total = step["time_s"]
        console.print(Text(f"{step['name']}: {units.show(total, 's')}", style="bold"))
        leaves = sorted(_leaves(step), key=lambda leaf: -leaf["time_s"])
        table = grid("term", "time", "share", "calls", "bound by", "source")
        for leaf in leaves[:TOP_TERMS]:
            share = leaf["time_s"] / total if total else 0.0
            table.add_row(
                leaf["name"],
                units.show(leaf["time_s"], "s"),
                f"{100 * share:.0f}%",
                f"{leaf['count']:g}",
                leaf["bound"],
                leaf["source"],
            )
        rest = sum(leaf["time_s"] for leaf in leaves[TOP_TERMS:])
        if rest > 0:
            table.add_row(
                f"{len(leaves) - TOP_TERMS} more", units.show(rest, "s"), f"{100 * rest / total:.0f}%", "", "", ""
            )
        console.print(table)


def _leaves(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [leaf for part in node["parts"] for leaf in _leaves(part)] if node["parts"] else [node]


def print_memory(node: Mapping[str, Any]) -> None:
    """A memory tree, largest first."""
    opened().print(memory_text.tree(printable(node)))


def _print_warnings(console: Console, warnings: Iterable[str]) -> None:
    for warning in warnings:
        console.print(Text(f"note: {warning}", style="yellow"))


def _layout(run: Mapping[str, Any]) -> str:
    if run.get("disaggregated"):
        return "; ".join(
            f"{run[side]['workers']} {side} workers: {_layout(run[side])}" for side in ("prefill", "decode")
        )
    degrees = {
        "tp": run["tensor_parallel"],
        "pp": run["pipeline_parallel"],
        "dp": run["data_parallel"],
        "ep": run["expert_parallel"],
        "attention-dp": run["attention_dp"],
    }
    split = " ".join(f"{name} {degree}" for name, degree in degrees.items() if degree > 1) or "one device"
    used = "".join(f", {technique['name']}" for technique in run.get("techniques", ()))
    return f"{split}; {run['weights']} weights, {run['activations']} products, {run['kv_cache']} cache{used}"


def _workload(work: Mapping[str, Any]) -> str:
    lengths = f"{work['input_tokens']:g} tokens in, {work['output_tokens']:g} out"
    loads = {
        "concurrency": f"{work['load']:g} in flight",
        "rate": f"{work['load']:g} requests/s",
        "batch": f"a batch of {work['load']:g}",
        "offline": "offline",
    }
    return lengths if work["mode"] == "concurrency" and work["load"] == 1 else f"{lengths}, {loads[work['mode']]}"

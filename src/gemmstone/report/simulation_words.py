"""What a simulation found in words and in cells of tables, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemmstone.core import targets, units
from gemmstone.report.quantities import engine, hardware

Document = Mapping[str, Any]
# metric -> (letters, in words)
LATENCIES = {
    "ttft_s": ("TTFT", "time to first token"),
    "tpot_s": ("TPOT", "time per further token"),
    "itl_s": ("ITL", "time between two tokens"),
    "e2e_s": ("E2E", "whole request"),
    "queue_s": ("queue", "wait until scheduled"),
}
STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")
NOT_KNOWN = "-"
DAY_S = 86400.0


def title(document: Document) -> str:
    """What was simulated: the model, where, and how many replicas of it."""
    replicas = len(document["replicas"])
    many = (
        f"{replicas} replicas on {hardware(document['hardware'])} each"
        if replicas > 1
        else hardware(document["hardware"])
    )
    return f"{document['model']} on {many}" if replicas <= 1 else f"{document['model']}, {many}"


def question(document: Document) -> str:
    """The traffic and how it was served, as far as the document says."""
    traffic, run, how = document["traffic"], document.get("deployment") or {}, document.get("scheduling") or {}
    metrics = document["metrics"]
    rate = traffic.get("rate_per_s")
    flight = traffic.get("in_flight")
    pieces = [f"{metrics['submitted']:,} requests of {traffic['name']}"]
    if flight:
        pieces.append(f"{flight:,} kept in flight")
    elif rate:
        pieces.append(f"{units.show(rate, 'count')} a second on average")
    pieces.append(f"{lasting(metrics['duration_s'])} simulated")
    if run.get("engine"):
        pieces.append(f"engine {engine(run['engine'])}")
    pieces += [f"{name} {how[name]}" for name in ("batching", "policy", "router", "seed") if how.get(name) is not None]
    return f"{', '.join(pieces)}."


def lasting(seconds: float) -> str:
    return units.show(seconds, "s")


def sentence(document: Document) -> str:
    """The answer, for a reader who reads nothing else."""
    metrics = document["metrics"]
    if not metrics["submitted"]:
        return "No request arrived."
    if metrics["ttft_s"]["p99"] is None:
        return f"None of {metrics['submitted']:,} requests was served."
    tokens = f"{units.show(metrics['output_tokens_per_s'], 'count')} output tokens/s"
    first = f"half of the requests have their first token within {seconds(metrics['ttft_s']['p50'])}, 99% within {seconds(metrics['ttft_s']['p99'])}"
    then = metrics["tpot_s"]["mean"]
    return f"{tokens}; {first}" + (f"; then one every {seconds(then)} on average." if then is not None else ".")


def verdict(document: Document) -> str:
    """Whether the targets were met, in a sentence; "" without targets."""
    judged = document["slo"]
    if not judged:
        return ""
    missed = [name for name, found in judged.items() if found["met"] is False]
    open_ = [name for name, found in judged.items() if found["met"] is None]
    good = document["metrics"]["goodput_frac"]
    share = f"; {percent(good)} of the requests were served as asked" if good is not None else ""
    if missed:
        return f"misses {', '.join(name_of(name) for name in missed)}{share}"
    if len(open_) == len(judged):
        return "nothing happened that targets could be held against"
    return f"meets {'its target' if len(judged) == 1 else 'all targets that could be judged' if open_ else 'all targets'}{share}"


def name_of(target: str) -> str:
    """A target's name as it is read: TTFT p99, TPOT mean."""
    latency, statistic = targets.split(target)
    return f"{latency.upper()} {statistic}"


def seconds(value: float | None) -> str:
    return NOT_KNOWN if value is None else units.show(value, "s")


def percent(share: float) -> str:
    """A share as percent; one that is not quite all or nothing never reads as if it were.

    >>> percent(0.99996), percent(0.5), percent(1.0)
    ('99.99%', '50.0%', '100%')
    """
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    if share >= 0.999:
        return f"{int(share * 1e4) / 100:.2f}%"
    return f"{100 * share:.1f}%" if share >= 0.001 else "less than 0.1%"


def judged_rows(document: Document) -> list[tuple[str, str, str, str]]:
    """A row a target: its name, the bound, what was observed, whether that meets it."""
    said = {True: "met", False: "missed", None: "nothing to judge"}
    rows = []
    for name, found in document["slo"].items():
        late = found["observed_s"] is None and found["met"] is False
        observed = "no answer in time" if late else seconds(found["observed_s"])
        rows.append((name_of(name), seconds(found["target_s"]), observed, said[found["met"]]))
    return rows


def latency_rows(document: Document) -> list[list[str]]:
    """A row a latency: its name, then the statistics."""
    return [
        [f"{letters}, {words}", *(seconds(document["metrics"][metric][statistic]) for statistic in STATISTICS)]
        for metric, (letters, words) in LATENCIES.items()
    ]


def amounts(document: Document) -> list[tuple[str, str]]:
    """Everything else that was counted, label and value; what is not known is left out."""
    metrics = document["metrics"]
    served = f"{metrics['completed']:,} of {metrics['submitted']:,}"
    lost = [f"{metrics[kind]:,} {kind}" for kind in ("rejected", "unfinished") if metrics[kind]]
    tokens = metrics["output_tokens_per_s"] * metrics["duration_s"]
    found = [
        ("requests completed", ", ".join([served, *lost])),
        ("output tokens/s", units.show(metrics["output_tokens_per_s"], "count")),
        ("requests/s", units.show(metrics["requests_per_s"], "count")),
    ]
    if document["slo"]:
        found.append(("goodput, requests/s", units.show(metrics["goodput_requests_per_s"], "count")))
    found += [
        ("preemptions", f"{metrics['preemptions']:,}"),
        ("prompt tokens from the prefix cache", percent(metrics["prefix_hit_frac"])),
        ("engine steps", f"{metrics['steps']:,}"),
    ]
    if metrics["power_w"] is not None:
        found.append(("power", units.show(metrics["power_w"], "w")))
        found.append(("energy", units.show(metrics["energy_j"], "j")))
        if tokens:
            found.append(("energy per output token", units.show(metrics["energy_j"] / tokens, "j")))
    if metrics["cost_usd"] is not None:
        found.append(("cost, USD", f"{metrics['cost_usd']:,.2f}"))
        if tokens:
            found.append(("USD per million output tokens", f"{metrics['cost_usd'] / tokens * 1e6:,.2f}"))
    if metrics["gco2"] is not None:
        found.append(("CO2, g", units.show(metrics["gco2"], "count")))
    return found


REPLICA_HEADERS = ("replica", "requests", "output tokens", "busy", "fullest cache", "preemptions", "energy")


def replica_rows(document: Document, most: int) -> list[Sequence[str]]:
    """A row a replica, the busiest first where not all are shown."""
    numbered = list(enumerate(document["replicas"]))
    if len(numbered) > most:
        numbered = sorted(numbered, key=lambda entry: -entry[1]["busy_frac"])[:most]
    return [
        (
            str(number),
            f"{entry['requests']:,}",
            f"{entry['output_tokens']:,}",
            percent(entry["busy_frac"]),
            percent(entry["peak_kv_frac"]),
            f"{entry['preemptions']:,}",
            NOT_KNOWN if entry["energy_j"] is None else units.show(entry["energy_j"], "j"),
        )
        for number, entry in numbered
    ]

"""The page's section on energy: what a token's joules are spent on, where the watts go, and what carbon was counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.core import units
from gemmstone.report.energy_text import SCOPES, lines
from gemmstone.report.figure import BLUE
from gemmstone.report.markup import NOTHING, Html, bar, element, join, table

Document = Mapping[str, Any]
STATES = {
    "dynamic": "what kernels take",
    "idle": "what the same machines draw anyway while they serve",
    "unused": "what they draw while nobody asks them anything (--utilization)",
}
PARTS = {
    "devices": "accelerators",
    "fans": "fans, and what else grows with their heat",
    "board": "switches, retimers and network cards of the baseboard",
    "host": "processors, memory and drives",
    "supply_loss": "lost in power supplies",
    "site": "cooling and distribution (PUE)",
}
TOGETHER = (
    "network and switches of the baseboard, with the processors, memory and drives of a host that is not known apart"
)


def section(document: Document) -> Html:
    """Two tables and a line on carbon; NOTHING where the power of a device is not known."""
    energy = (document.get("best") or {}).get("energy")
    if not energy:
        return NOTHING
    joules, watts = energy["j_per_output_token"], energy["power_w"]
    spent = [(name, words, joules[name], "j", joules["total"]) for name, words in STATES.items()]
    drawn = [(name, words, watts["parts"][name], "w", watts["facility"]) for name, words in _parts(watts["parts"])]
    use = energy["utilization_frac"]
    scope = f"Counted: {SCOPES[energy['scope']]}{f', used {use:.0%} of the time' if use < 1 else ''}."
    counted = energy["counted_with"]
    sources = f"{counted['g_per_kwh']:,.4g} g/kWh ({counted['g_per_kwh_source']}), PUE {counted['pue']:g} ({counted['pue_source']})."
    return join(
        (
            element("p", scope, class_="soft"),
            table(("a token", "joules", "share"), _rows(spent), label="energy of a token"),
            element("h3", "Where the watts of the whole system go while it serves"),
            table(("part", "watts", "share"), _rows(drawn), label="power by part"),
            element("p", f"{lines(energy)[1]}. {sources}", class_="soft"),
        )
    )


def _parts(watts: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """What draws anything, with words; the host's row is the board's where the two are not told apart."""
    words = {**PARTS, "board": TOGETHER} if watts["host"] is None else PARTS
    return [(name, said) for name, said in words.items() if watts[name]]


def _rows(entries: list[tuple[str, str, float, str, float]]) -> list[list[object]]:
    return [
        [
            join((name.replace("_", " "), element("span", words, class_="below"))),
            units.show(value, dimension),
            join((bar(value / whole if whole else 0.0, BLUE), f"{value / whole if whole else 0.0:.0%}")),
        ]
        for name, words, value, dimension, whole in entries
    ]

"""The compute of a training run, printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lines(found: Mapping[str, Any]) -> list[str]:
    """The report of graph.training_compute as lines of text."""
    experts = found["active_parameters"] != found["parameters"]
    used = f"{found['active_parameters'] / 1e9:,.4g} B parameters" + (" that a token uses" if experts else "")
    text = [
        f"training on {found['tokens']:,.4g} tokens: {found['flop']:.3g} FLOP",
        f"  6 x {used} x tokens (arXiv:2001.08361); parameters from {found['parameters_source']}",
        f"  {found['operations_flop']:.3g} FLOP by its operations, sequences of {found['sequence']:,} tokens",
    ]
    for item in found["thresholds"]:
        state = (
            f"since {item['since']}"
            if item["holds"]
            else f"{item['since']} to {item['until']}"
            if item["until"]
            else f"from {item['since']}"
        )
        text.append(
            f"  {'above' if item['exceeded'] else 'below'} {item['flop']:g} FLOP ({item['share']:.3g} of it): {item['name']}, "
            f"{state}: {item['what']}"
        )
        text.append(f"    {item['source']}")
    return text

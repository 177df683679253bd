"""The table of `gemmstone measure model`: each forward pass as it was measured, as it was predicted, and the error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]


def lines(document: Document) -> list[str]:
    """The table, a line a forward pass, and what it comes to."""
    found = [f"{document['model']} in {document['dtype']}, PyTorch, against the prediction for {document['on']}"]
    found.append(
        f"{'':<9}{'batch':>6}{'tokens':>8}{'measured':>12}{'+-':>7}{'predicted':>12}{'error':>8}{'tokens/s':>11}"
    )
    for row in document["rows"]:
        found.append(
            f"{row['kind']:<9}{row['batch']:>6}{row['tokens']:>8}{1e3 * row['measured_s']:>9.2f} ms{_half(row):>7}"
            f"{_milliseconds(row['predicted_s']):>12}{_percent(row['error_frac']):>8}{row['tokens_per_s']:>11,.0f}"
        )
    if document["median_error"] is not None:
        median, p90 = (100 * document[name] for name in ("median_error", "p90_error"))
        found.append(f"error: median {median:.1f}%, nine in ten within {p90:.1f}%")
    if document["run"]:
        found.append(f"kept as run {document['run']}")
    return found


def _half(row: Document) -> str:
    if row["low_s"] is None or row["high_s"] is None:
        return "?"
    return f"{50 * (row['high_s'] - row['low_s']) / row['measured_s']:.1f}%"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.2f} ms"


def _percent(frac: float | None) -> str:
    return "-" if frac is None else f"{100 * frac:+.1f}%"

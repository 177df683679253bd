"""Checks on tables of measurements before anything is fitted to them: columns that were computed, rows that cannot be.

A column that is another one plus or times a constant in every row was derived, not measured, and says nothing of its own.
A decode rate whose weights would have crossed the memory faster than the memory can is no measurement of that machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from gemmstone.calibrate import lint_rows, lint_tables
from gemmstone.calibrate.findings import LEFT_OUT, NOTED, REFUSED, Finding, worst_first
from gemmstone.calibrate.measurements import Measurements

MIN_ROWS = 5  # of both columns, below which a pattern may be chance
ROUNDING = 0.011  # of numbers with two decimals: half a unit on either side of a difference

KINDS = (
    "unreadable",
    "shifted",
    "impossible",
    "repeated",
    "contradiction",
    "scaled copy",
    "too fast",
    "outlier",
    "backwards",
    "wrong unit",
    "mislabelled",
    "off by a factor",
    "empty column",
    "derived column",
)


class Report(NamedTuple):
    """What a look at measurements found, worst first, and the measurements that are left to fit."""

    findings: tuple[Finding, ...]
    measured: tuple[Measurements, ...]

    @property
    def refused(self) -> list[Finding]:
        """The findings that forbid a fit."""
        return [finding for finding in self.findings if finding.severity == REFUSED]

    def left_out(self) -> dict[str, set[int]]:
        """Rows of each file that are not to be fitted."""
        rows: dict[str, set[int]] = {}
        for finding in self.findings:
            if finding.severity == LEFT_OUT:
                rows.setdefault(finding.file, set()).update(finding.rows)
        return rows


def check(
    measured: Iterable[Measurements], found: Iterable[Finding] = (), *, accept: Iterable[str] = (), strict: bool = False
) -> Report:
    """Looks at measurements from all sides; `found` is what their reading found already.

    Findings of kinds in `accept` are noted alone, and their rows stay. `strict` refuses rows that would be left out.
    """
    accepted = set(accept)
    measured, findings = list(measured), list(found)
    kept = []
    for one in measured:
        rows, clean = _rows(one, accepted)
        findings += rows
        if clean.seconds.size:
            kept.append(clean)
    findings += [*lint_tables.labels(kept), *lint_tables.copies(kept)]
    return Report(tuple(worst_first(_judged(finding, accepted, strict) for finding in findings)), tuple(kept))


def _judged(finding: Finding, accepted: set[str], strict: bool) -> Finding:
    if finding.kind in accepted:
        return finding._replace(severity=NOTED)
    return finding._replace(severity=REFUSED) if strict and finding.severity == LEFT_OUT else finding


def _rows(found: Measurements, accepted: set[str]) -> tuple[list[Finding], Measurements]:
    """Findings in single rows, and the rows that are left: each check sees what those before it let pass."""
    findings: list[Finding] = []
    checks = (
        lint_rows.impossible,
        lint_rows.repeats,
        lint_rows.beyond_the_device,
        lint_rows.outliers,
        lint_rows.backwards,
    )
    for look in checks if found.family else checks[:2]:
        for finding in look(found):
            findings.append(finding)
            if finding.severity == LEFT_OUT and finding.kind not in accepted:
                found = found.at(np.flatnonzero(~np.isin(found.rows, finding.rows)))
            elif finding.kind == "impossible":  # numbers that no later check could do with
                found = found.at(np.flatnonzero(np.isfinite(found.seconds) & (found.seconds > 0)))
        if not found.seconds.size:
            break
    return findings, found


def columns(file: str, rows: Sequence[Mapping[str, float | None]]) -> list[Finding]:
    """What is noted of columns beside the times: those without a value but 0, and those computed from others."""
    empty = list(lint_tables.empty_columns(file, rows))
    names = {name for row in rows for name, value in row.items() if value}
    filled = [{name: row[name] for name in names} for row in rows]
    derived = [
        Finding("derived column", NOTED, file, (), f"{how} in every row: computed, not measured")
        for how in derived_columns(filled)
    ]
    return [*empty, *derived]


def derived_columns(rows: Sequence[Mapping[str, float | None]]) -> list[str]:
    """What columns are of others in every row that has both, as "max_ram = size + 2.5" or "capped = time * 1.3"."""
    names = sorted({name for row in rows for name, value in row.items() if isinstance(value, int | float)})
    found = []
    for derived, base in permutations(names, 2):
        pairs = [(row[derived], row[base]) for row in rows if _both(row, derived, base)]
        if len(pairs) < MIN_ROWS or len({b for _, b in pairs}) < MIN_ROWS:
            continue
        differences = [a - b for a, b in pairs]  # type: ignore[operator]
        ratios = [a / b for a, b in pairs if b]  # type: ignore[operator]
        middle = sorted(differences)[len(differences) // 2]
        if max(differences) - min(differences) <= 2 * ROUNDING and middle > ROUNDING:
            found.append(f"{derived} = {base} + {middle:.3g}")
        elif (
            len(ratios) == len(pairs) and max(ratios) - min(ratios) <= 1e-3 * min(map(abs, ratios)) and ratios[0] > 1.01
        ):
            found.append(f"{derived} = {base} * {ratios[0]:.3g}")
    return found


def _both(row: Mapping[str, float | None], one: str, other: str) -> bool:
    return isinstance(row.get(one), int | float) and isinstance(row.get(other), int | float)


def bits_per_weight(file_bytes: float, parameters: float) -> float:
    """Bits of storage a weight: 16 for half precision; 32 where a checkpoint that is called 16-bit is stored in fp32."""
    return 8.0 * file_bytes / parameters


def beyond_bandwidth(tokens_per_s: float, weight_bytes: float, memory_bytes_per_s: float) -> float:
    """How many times faster than the memory allows the weights of one sequence's decode would have been read; below 1 is fine.

    One token of one sequence reads all (active) weights once: tokens/s x bytes <= bandwidth.
    """
    return tokens_per_s * weight_bytes / memory_bytes_per_s


def common_perplexity(log_likelihood: float, common_tokens: float) -> float:
    """Perplexity a token of a tokenizer that is common to all models compared: e^(-log likelihood / tokens).

    Perplexities of a model's own tokens do not compare: longer tokens are harder to guess, and fewer (2202.13169).
    `log_likelihood` is the sum of natural logarithms over a text, whatever tokens it was taken over.
    """
    return math.exp(-log_likelihood / common_tokens)

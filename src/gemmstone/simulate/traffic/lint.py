"""What is wrong with the rows of a trace, by kind, with the lines it is wrong in; and what repairing does about it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Indices, Integers
from gemmstone.simulate.traffic.batches import Batch
from gemmstone.simulate.traffic.lengths import MAX_TOKENS

SHOWN = 5  # lines named of each kind
MAX_SPAN_S = 2 * 365 * 86_400.0
ROUGH_ROWS, ROUGH_FRAC = 1_000, 0.1  # rows from which on times may be seen to be rough, and how many of them
EPOCH_S = 9e8  # times above are seconds since 1970, not since the start of a trace
INT32 = 2**31
Mask = npt.NDArray[np.bool_]


class Findings:
    """Lines with something wrong, by kind."""

    def __init__(self, file: str, unit: str) -> None:
        self.file, self.unit = file, unit
        self.count: dict[str, int] = {}
        self.first: dict[str, list[int]] = {}

    def add(self, kind: str, lines: Sequence[int] | Indices) -> None:
        """Notes lines; the first few are remembered."""
        if len(lines):
            self.count[kind] = self.count.get(kind, 0) + len(lines)
            known = self.first.setdefault(kind, [])
            known.extend(int(line) for line in lines[: SHOWN - len(known)])

    def texts(self) -> list[str]:
        """One text a kind: how many rows, and the first lines."""
        found = []
        for kind, count in self.count.items():
            more = ", ..." if count > len(self.first[kind]) else ""
            rows, lines = "row" if count == 1 else "rows", self.unit if count == 1 else f"{self.unit}s"
            found.append(f"{count:,} {rows} {kind} ({lines} {', '.join(map(str, self.first[kind]))}{more})")
        return found

    def refuse(self) -> None:
        """Raises BadRequest where anything was found."""
        if self.count:
            raise BadRequest(
                f"{self.file}: {'; '.join(self.texts())}. Mend the file, or drop and sort such rows with --repair"
            )


def usable(batch: Batch, findings: Findings, hash_tokens: int) -> Mask:
    """Which rows of a batch hold numbers that can be meant."""
    good = np.ones(len(batch.lines), dtype=bool)

    def wrong(mask: Mask, kind: str) -> None:
        nonlocal good
        findings.add(kind, batch.lines[mask & good])
        good = good & ~mask

    if batch.arrival_s is not None:
        wrong(~np.isfinite(batch.arrival_s), "without a time of arrival")
        wrong(batch.arrival_s < 0, "with a negative time of arrival")
    for name, tokens in (("input", batch.input_tokens), ("output", batch.output_tokens)):
        wrong(~np.isfinite(tokens), f"without a number of {name} tokens")
        wrong(tokens < 0, f"with a negative number of {name} tokens")
        wrong(tokens < 1, f"with no {name} tokens")
        wrong(tokens != np.floor(tokens), f"with a fraction of {name} tokens")
        wrong(tokens > MAX_TOKENS, f"with more than {MAX_TOKENS:,} {name} tokens")
    if batch.priority is not None:
        whole = np.isfinite(batch.priority) & (batch.priority == np.floor(batch.priority))
        wrong(~whole | (np.abs(np.where(whole, batch.priority, 0.0)) >= INT32), "whose priority is no whole number")
    if batch.hash_count is not None:
        wrong(batch.hash_count < 0, "whose hash ids are no whole numbers")
        most = np.ceil(batch.input_tokens / hash_tokens)
        wrong(batch.hash_count > most, f"with more hash ids than the prompt has blocks of {hash_tokens} tokens")
    return good


def span(arrival_s: Array, lines: Indices, findings: Findings) -> Mask:
    """Which rows arrive within two years of the typical one."""
    good = np.ones(len(arrival_s), dtype=bool)
    if len(arrival_s):
        start_s = float(arrival_s.min())
        if start_s < EPOCH_S:
            start_s = 0.0
        good = arrival_s - start_s <= MAX_SPAN_S
        findings.add("more than two years after the start", lines[~good])
    return good


def unsorted(arrival_s: Array, lines: Indices, findings: Findings) -> None:
    """Notes rows that arrive before an earlier one."""
    if len(arrival_s):
        early = np.flatnonzero(arrival_s[1:] < np.maximum.accumulate(arrival_s)[:-1]) + 1
        findings.add("out of order", lines[early])


def rough(arrival_s: Array) -> bool:
    """Whether the clock of a trace ticks so slowly that equal rows are nothing unusual: a tenth of many rows share times."""
    if len(arrival_s) < ROUGH_ROWS:
        return False
    return len(arrival_s) - len(np.unique(arrival_s)) > ROUGH_FRAC * len(arrival_s)


def duplicates(arrival_s: Array, columns: Sequence[Array | Integers | Indices]) -> Mask:
    """Rows that repeat another of the same time in all columns."""
    repeated = np.zeros(len(arrival_s), dtype=bool)
    order = np.argsort(arrival_s, kind="stable")
    ranked = arrival_s[order]
    same = ranked[1:] == ranked[:-1]
    tied = order[np.append(same, False) | np.insert(same, 0, False)] if len(order) else order
    if len(tied):
        values = [column[tied] for column in columns]
        rank = np.lexsort((tied, *values, arrival_s[tied]))
        equal = np.ones(len(rank) - 1, dtype=bool)
        for column in (*values, arrival_s[tied]):
            equal &= column[rank[1:]] == column[rank[:-1]]
        repeated[tied[rank[1:][equal]]] = True
    return repeated


def repeated_names(names: Indices) -> Mask:
    """Rows whose code was there before."""
    repeated = np.ones(len(names), dtype=bool)
    repeated[np.unique(names, return_index=True)[1]] = False
    return repeated

"""What a look at measurements found: which rows, what of them, and whether anything may still be fitted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

# How bad it is: the table says something else than it claims, some rows cannot be, or worth knowing alone.
REFUSED, LEFT_OUT, NOTED = "refused", "left out", "noted"
NAMED = 3  # rows that a message names; the document has more
MAX_ROWS = 1_000  # of a finding in a document


class Finding(NamedTuple):
    """Something wrong: its kind, how bad it is, the rows of a file (counted as a person does) and what is said of them.

    In CSV the header is row 1; in Parquet, which has none, the first measurement is. A finding of a whole table names its
    first row or the worst.
    """

    kind: str
    severity: str
    file: str
    rows: tuple[int, ...]
    message: str

    def line(self) -> str:
        """The finding in one line: file, rows, what is wrong."""
        named = ", ".join(str(row) for row in self.rows[:NAMED])
        more = f" and {len(self.rows) - NAMED:,} more" if len(self.rows) > NAMED else ""
        where = f"row{'s' if len(self.rows) > 1 else ''} {named}{more}: " if self.rows else ""
        return f"{self.file}: {where}{self.message}"

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "file": self.file,
            "rows": list(self.rows[:MAX_ROWS]),
            "num_rows": len(self.rows),
            "message": self.message,
        }


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Refusals first, then rows left out, then notes; within each in the order they were found."""
    order: Sequence[str] = (REFUSED, LEFT_OUT, NOTED)
    return sorted(findings, key=lambda finding: order.index(finding.severity))

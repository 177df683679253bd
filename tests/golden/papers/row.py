"""A number that a paper prints beside what this product computes, and the page that shows both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

SAME = 5e-6  # relative difference that is shown as none


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of a paper: its setting, what is printed, and how it comes out here.

    `here` gives SI units; `form` shows them after division by `scale`, `boolean` as a word. `expected` is held within `within` (a share of it),
    for the reason `why`; a range or an order is held by `low` and `high` instead, and `relation` says how. `flag` says what is wrong with a printed
    number, which then must not come out. `fitted` numbers move when coefficients are fitted again.
    """

    setting: str
    said: str
    here: Callable[[], float]
    form: str = "{:,.4g}"
    boolean: bool = False
    scale: float = 1.0
    expected: float | None = None
    within: float = 0.0
    low: float | None = None
    high: float | None = None
    relation: str = "holds"
    why: str = ""
    flag: str = ""
    remark: str = ""
    fitted: bool = False

    def difference(self, value: float) -> str:
        """How far `value` is from the printed number, as a share; whether it holds, for a range or an order."""
        if self.expected is None:
            return self.relation if self.holds(value) else "does not hold"
        share = value / self.expected - 1
        return "0" if abs(share) < SAME else f"{share:+.1%}" if abs(share) >= 5e-4 else f"{share:+.3%}"

    def holds(self, value: float) -> bool:
        """Whether `value` is what the row promises of it."""
        if self.expected is not None:
            near = abs(value / self.expected - 1) <= self.within
            return not near if self.flag else near
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def shown(self, value: float) -> str:
        """What comes out, as the page has it."""
        return ("yes" if value else "no") if self.boolean else self.form.format(value / self.scale)

    def line(self, value: float) -> str:
        """The row of the page."""
        remark = " ".join(text for text in (f"**{self.flag}**" if self.flag else "", self.remark) if text)
        cells = (self.setting, self.said, self.shown(value), self.difference(value), remark)
        return "| " + " | ".join(cells) + " |"


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A source with its rows. `seed` is its short name, `link` where it is."""

    seed: str
    title: str
    link: str
    rows: tuple[Row, ...]
    apart: str = ""  # what it claims that is not predicted here, and why


def table(papers: Sequence[Paper], values: Mapping[Row, float]) -> str:
    """The papers with their rows as the page shows them."""
    parts = []
    for paper in papers:
        lines = [f"### {paper.title}", "", f"{paper.link}", ""]
        lines += ["| setting | paper | here | difference | remark |", "|---|---|---|---|---|"]
        lines += [row.line(values[row]) for row in paper.rows]
        if paper.apart:
            lines += ["", paper.apart]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def arxiv(number: str) -> str:
    """Link to a paper."""
    return f"[arXiv:{number}](https://arxiv.org/abs/{number})"

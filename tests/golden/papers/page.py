"""docs/papers.md, written from the rows."""

from __future__ import annotations

from pathlib import Path

from papers import PAPERS
from papers.row import arxiv, table
from papers.survey import checklist

PATH = Path(__file__).resolve().parents[3] / "docs" / "papers.md"
INTRODUCTION = """# Papers

What published predictions, measurements and claims say, and what comes out here for the same setting. Every number in the column
"here" is computed by the tests (`tests/golden/papers/`), which also write this page. "derived" marks numbers that follow from what
a paper prints by plain arithmetic; the rest is printed there. A difference is ours over theirs; of ranges and orders the page says
whether they hold. Remarks in bold say what is wrong with a printed number. Predictions of measured serving systems are compared
under [Engines](physics/engines.md)."""
SURVEY = f"""## A survey as a checklist

{arxiv("2409.00088")}, "On-Device Language Models: A Comprehensive Review", names classes of techniques. Each has an action here, or is left
out for a reason."""


def rendered() -> str:
    """The page with what comes out today."""
    parts = [INTRODUCTION]
    for title, papers in PAPERS.items():
        values = {row: row.here() for paper in papers for row in paper.rows}
        parts += [f"## {title}", table(papers, values)]
    return "\n\n".join([*parts, SURVEY, checklist()]) + "\n"


def read() -> str:
    """The page as it is."""
    return PATH.read_text(encoding="utf-8")


def write() -> None:
    """Brings the page up to date."""
    PATH.write_text(rendered(), encoding="utf-8")

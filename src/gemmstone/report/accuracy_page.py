"""The page about accuracy: the document of `gemmstone validate` as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gemmstone.report.validation import described, numbers, shown

FITTED_WORDS = {0.0: "no", 1.0: "yes"}
GROUPINGS = {
    "kind,metric": ("By kind of measurement", "kind and metric"),
    "device": ("By device", "device"),
    "engine": ("By engine", "engine"),
    "precision": ("By precision", "format of the weights"),
}
INTRODUCTION = """# Accuracy

How far predictions are from measurements that others published. {rows} cases with {values} measured values are typed in as facts,
each with its source and the reason it was chosen, in `src/gemmstone/catalog/reference/`; `gemmstone validate` predicts all of them
with the coefficients that are shipped. This page is what it finds in version {version}: the tests compare the two, and fail when
the median of a group gets worse by more than a tenth than the bound that was recorded with it.

An error is |predicted / measured - 1|, the bias the median of predicted / measured; a single error counts as at most 5 in a mean. The
last column is the share of measured values inside the predicted 80% band: far under 80% the band is too narrow, far above it too wide.

Numbers on rows that coefficients were fitted on say how well a form can bend, not how well it predicts. A row counts as fitted when
coefficients name the table it was taken from among their inputs. **What to expect of a system that nobody measured for this
project is the line "never fitted".**"""
CHOICE = """## How the cases were chosen

From each public source a modest sample that covers its devices, models, engines, formats, lengths and loads: the next row is always the one
that brings most that is new, so that rare combinations weigh more here than in the tables they come from. Devices that the catalogue does not describe, and models that it does not ship, are left out. So are, for
reasons that do not look at our predictions:

- deployments that would have to be faster than their devices' datasheets allow for what their columns say, and DeepBench's products for
  inference, which are in a narrower format than their sheet says;
- GPT-J of MLPerf, which searches with four beams, and Mixtral of MLPerf, whose lengths of prompts are not published;
- one column of a benchmark of A100s whose tokens/s need 1.4 times the bandwidth of the memory, and one that is labelled FP32 and equals FP16;
- 16-bit prompts of llama.cpp on A100 SXM, at 600 tokens/s a twentieth of the same table's PCIe card;
- external GPUs behind the one PCIe lane of a Raspberry Pi.

Where a source does not publish what a prediction needs (the length of a prompt, the split over devices), the reason beside the row says
what was taken. Times of single kernels that were launched one by one contain the host's launch, which the prediction of a kernel does not."""


def page(document: Mapping[str, Any], bounds: Mapping[str, float]) -> str:
    """The page; `bounds` maps a group's "by: name" to the median it must not exceed by more than a tenth."""
    groups = document["groups"]
    whole = next(group for group in groups if group["by"] == "all")
    parts = [
        INTRODUCTION.format(rows=document["rows"], values=whole["n"], version=document["gemmstone_version"]),
        _table(
            ("", *_HEADERS[2:]),
            [
                (f"**{group['name']}**" if group["by"] != "all" else "together", *_cells(group, bounds))
                for group in sorted(groups, key=lambda group: group["name"] != "never fitted")
                if group["by"] in ("fitted", "all")
            ],
        ),
    ]
    for by, (title, label) in GROUPINGS.items():
        own = [group for group in groups if group["by"] == by]
        lines = [(group["name"], _fitted(group), *_cells(group, bounds)) for group in own]
        parts += [f"## {title}", _table((label, *_HEADERS[1:]), lines)]
    parts += [
        _held_out(document["held_out"], document["engines_held_out"]),
        _worst(document["worst"]),
        _unanswered(document["unanswered"]),
        CHOICE,
    ]
    return "\n\n".join(parts) + "\n"


_HEADERS = ("", "fitted", "n", "answered", "median", "mean", "bias", "in 80% band", "bound of the median")


def _cells(group: Mapping[str, Any], bounds: Mapping[str, float]) -> tuple[str, ...]:
    bound = bounds.get(f"{group['by']}: {group['name']}")
    return (
        str(group["n"]),
        str(group["answered"]),
        *numbers(group),
        "" if bound is None else f"{bound:.1%}",
    )


def _fitted(group: Mapping[str, Any]) -> str:
    return FITTED_WORDS.get(group["fitted_frac"], f"{group['fitted_frac']:.0%}")


def _held_out(families: Sequence[Mapping[str, Any]], engines: Sequence[Mapping[str, Any]]) -> str:
    spreads = [
        (
            f"`{engine['engine']}`",
            f"{engine['rows']:,}",
            *(_spread(engine[name]) for name in ("tpot", "ttft", "throughput")),
        )
        for engine in engines
    ]
    lines = [
        (
            family["family"].replace("_", " "),
            str(family["devices"]),
            str(family["fits"]),
            f"{family['points']:,}",
            f"{family['median_error']:.1%}",
            f"{family['mean_error']:.1%}",
            f"{family['worst_error']:.1%} ({family['worst']})",
        )
        for family in families
    ]
    headers = ("operation", "devices", "fits", "measurements", "median", "mean", "worst mean")
    return f"""## Held out of the fits

Kernels are fitted on tables of measurements, with whole shapes held out: their errors, as medians over the fits of an operation.

{_table(headers, lines)}

[Engines](physics/engines.md) are fitted on deployments: the spread of log(predicted / measured), as a standard deviation, on groups of a model
and a device that were held out. `@static` are the offline scripts of 2024, other names after an @ releases with habits of their own.

{_table(("engine", "deployments", "TPOT", "TTFT", "throughput"), spreads)}"""


def _spread(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _worst(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        (
            _plain(described(row)),
            row["metric"],
            shown(row, "measured"),
            shown(row, "predicted"),
            f"{row['ratio']:.2f}",
            "yes" if row["fitted"] else "no",
        )
        for row in rows
    ]
    headers = ("case", "metric", "measured", "predicted", "ratio", "fitted")
    return f"""## Furthest off

The rows with the largest factor between prediction and measurement; their sources are in the files by their names.

{_table(headers, lines)}"""


def _unanswered(reasons: Iterable[Mapping[str, Any]]) -> str:
    lines = [f"- {entry['n']}, as `{entry['id']}`: {_plain(entry['reason'])}" for entry in reasons]
    return "\n".join(["## Without an answer", "", *(lines or ["None."])])


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

"""Poisoned measurements are caught with the rows that are poisoned, and clean ones pass, whatever the numbers.

Clean tables are made of what a device's fits expect, times noise: a fit's own error is then none of the lint's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.calibrate import lint, lint_physics, long_tables
from gemmstone.calibrate.findings import LEFT_OUT, NOTED, REFUSED, Finding
from gemmstone.calibrate.measurements import Measurements
from gemmstone.measure.calls import CALLS

FEW = settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
DEVICES = ("a100-sxm-80gb", "h100-sxm", "b200-sxm", "rtx-pro-6000")
HEADER = 1  # the row before the first measurement


def grid(family: str) -> list[dict[str, float]]:
    """Shapes of a family's calls, from launch-bound to as large as they come."""
    if family == "gemm":
        return [
            {"m": m, "n": n, "k": k} for n in (1024, 4096, 8192) for k in (1024, 5120) for m in (1, 8, 64, 512, 4096)
        ]
    heads = {"heads": 32, "kv_heads": 8, "head_dim": 128}
    length = "context" if family == "attention_decode" else "tokens"
    return [{"batch": b, length: t, **heads} for b in (1, 2, 4, 16, 64) for t in (128, 512, 1024, 4096, 8192, 16384)]


def clean(
    seed: int, device: str = "h100-sxm", family: str = "gemm", dtype: str = "bf16", engine: str = "vllm"
) -> Measurements:
    """What a device would measure: its fits' expectation times 3% of noise, in an order of its own."""
    rng = np.random.default_rng(seed)
    shapes = grid(family)
    spec = CALLS[family]
    columns = {
        name: np.array([shape.get(name, 0.0) for shape in shapes], float) for name in (*spec.columns, *spec.defaults)
    }
    op = spec.op(columns, dtype)
    bare = Measurements(
        family=family,
        device=device,
        engine=engine,
        version="1.0",
        variant=op.variant,
        kernel="",
        op=op,
        seconds=np.ones(len(shapes)),
        rows=np.arange(len(shapes)) + 1 + HEADER,
        shape=columns,
        file="poisoned.csv",
        sha256="",
    )
    expected = lint_physics.expected_s(bare)
    assert expected is not None
    times = np.maximum(expected * np.exp(0.03 * rng.standard_normal(len(shapes))), lint_physics.least_s(bare))
    return seconds(bare, times).at(rng.permutation(len(shapes)))


def seconds(found: Measurements, values: np.ndarray) -> Measurements:
    return replace(found, seconds=np.asarray(values, dtype=float))


def said(measured: Iterable[Measurements], **how: object) -> list[Finding]:
    return list(lint.check(measured, **how).findings)  # type: ignore[arg-type]


def rows_of(findings: Sequence[Finding], kind: str) -> set[int]:
    return {row for finding in findings if finding.kind == kind for row in finding.rows}


@FEW
@given(SEEDS, st.sampled_from(DEVICES), st.sampled_from(["gemm", "attention_prefill", "attention_decode"]))
def test_clean_tables_pass(seed: int, device: str, family: str) -> None:
    assert said([clean(seed, device, family)]) == []


@FEW
@given(SEEDS, st.sampled_from([0.0, -1e-5, np.nan, np.inf, -np.inf]), st.integers(1, 3))
def test_times_that_are_none_are_named_and_left_out(seed: int, value: float, count: int) -> None:
    found = clean(seed)
    bad = np.random.default_rng(seed).choice(found.seconds.size, count, replace=False)
    times = found.seconds.copy()
    times[bad] = value
    report = lint.check([seconds(found, times)])
    (finding,) = report.findings
    assert (finding.kind, finding.severity) == ("impossible", LEFT_OUT)
    assert set(finding.rows) == set(found.rows[bad].tolist())
    assert report.measured[0].seconds.size == found.seconds.size - count
    assert all(str(row) in finding.line() for row in finding.rows)


def test_a_tenth_of_bad_rows_condemns_the_table() -> None:
    found = clean(1)
    times = found.seconds.copy()
    times[:6] = 0.0
    assert {finding.severity for finding in said([seconds(found, times)])} == {REFUSED}


@FEW
@given(SEEDS, st.sampled_from([1e-6, 1e-3, 1e3, 1e6]), st.integers(1, 3))
def test_rows_in_another_unit_are_named(seed: int, factor: float, count: int) -> None:
    found = clean(seed)
    bad = np.random.default_rng(seed).choice(found.seconds.size, count, replace=False)
    times = found.seconds.copy()
    times[bad] *= factor
    findings = said([seconds(found, times)])
    named = rows_of(findings, "outlier") | rows_of(findings, "too fast") | rows_of(findings, "backwards")
    assert set(found.rows[bad].tolist()) <= named
    assert all(finding.severity == LEFT_OUT for finding in findings)


@FEW
@given(SEEDS, st.sampled_from([1e-6, 1e-3, 1e3, 1e6]), st.sampled_from(DEVICES))
def test_a_whole_column_in_another_unit_is_refused(seed: int, factor: float, device: str) -> None:
    found = clean(seed, device)
    report = lint.check([seconds(found, found.seconds * factor)])
    assert report.refused
    assert set(report.refused[0].rows) <= set(found.rows.tolist())
    assert "unit" in " ".join(finding.message for finding in report.refused)


@FEW
@given(SEEDS, st.integers(1, 4))
def test_rows_that_stand_there_twice_are_named(seed: int, count: int) -> None:
    found = clean(seed)
    again = np.random.default_rng(seed).choice(found.seconds.size, count, replace=False)
    double = found.at(np.concatenate([np.arange(found.seconds.size), again]))
    double.rows[found.seconds.size :] = np.arange(count) + 1000
    findings = said([double])
    assert rows_of(findings, "repeated") == set(range(1000, 1000 + count))
    assert {finding.severity for finding in findings} == {LEFT_OUT}


@FEW
@given(SEEDS, st.floats(2.2, 50.0))
def test_repeats_that_contradict_each_other_are_named(seed: int, factor: float) -> None:
    found = clean(seed)
    point = int(np.random.default_rng(seed).integers(found.seconds.size))
    double = found.at(np.append(np.arange(found.seconds.size), point))
    double.rows[-1] = 1000
    double.seconds[-1] *= factor
    assert rows_of(said([double]), "contradiction") == {int(found.rows[point]), 1000}


@FEW
@given(SEEDS, st.sampled_from([1.3, 0.77, 2.0]))
def test_scaled_copies_are_refused_within_a_table_and_between_two(seed: int, factor: float) -> None:
    found = clean(seed)
    copied = np.arange(0, found.seconds.size, 3)
    capped = found.at(copied)
    capped = seconds(capped, capped.seconds * factor)
    within = found.at(np.concatenate([np.arange(found.seconds.size), copied]))
    within.rows[found.seconds.size :] = np.arange(copied.size) + 1000
    within.seconds[found.seconds.size :] = capped.seconds
    (finding,) = [one for one in said([within]) if one.kind == "scaled copy"]
    assert finding.severity == REFUSED
    originals, copies = set(found.rows[copied].tolist()), set(range(1000, 1000 + copied.size))
    assert set(finding.rows) == (copies if factor > 1 else originals)  # the slower one is called the copy
    findings = said([found, capped], accept=("mislabelled",))
    between = [one for one in findings if one.kind == "scaled copy"]
    assert [one.severity for one in between] == [REFUSED]
    # made faster, some are beyond the device, too, and named for that
    assert set(between[0].rows) | rows_of(findings, "too fast") == originals
    assert f"{factor:g} times" in between[0].message


def test_the_same_rows_under_two_engines_of_one_device_are_noted() -> None:
    found = clean(3)
    (finding,) = said([found, replace(found, engine="sglang")])
    assert (finding.kind, finding.severity) == ("scaled copy", NOTED)


LABELS = [(a, b) for a in DEVICES for b in DEVICES if a != b]


@pytest.mark.parametrize(("measured", "labelled"), LABELS)
def test_a_table_under_the_name_of_another_device_is_refused(measured: str, labelled: str) -> None:
    for seed in range(5):
        report = lint.check([replace(clean(seed, measured), device=labelled)])
        assert {finding.kind for finding in report.refused} & {"mislabelled", "too fast"}
        assert labelled in report.refused[0].message


@FEW
@given(SEEDS, st.sampled_from(DEVICES), st.floats(1.3, 3.0))
def test_a_table_that_is_slower_by_one_factor_is_noted(seed: int, device: str, factor: float) -> None:
    """As of a capped device: nothing is refused, unless another device does just so."""
    found = clean(seed, device)
    (finding,) = said([seconds(found, found.seconds * factor)])
    assert finding.kind in ("off by a factor", "mislabelled")
    if finding.kind == "off by a factor":
        assert finding.severity == NOTED
        told = float(re.search(r"([0-9.]+) times slower", finding.message)[1])
        assert told == pytest.approx(factor, rel=0.05)
        assert set(finding.rows) <= set(found.rows.tolist())


@pytest.mark.parametrize(("measured", "labelled"), [("fp8", "bf16"), ("bf16", "fp8")])
def test_a_table_under_the_name_of_another_format_is_refused(measured: str, labelled: str) -> None:
    for seed in range(5):
        times = clean(seed, "h100-sxm", "gemm", measured)
        wrong = clean(seed, "h100-sxm", "gemm", labelled)  # the same order of the same shapes
        report = lint.check([seconds(wrong, times.seconds)])
        assert {finding.kind for finding in report.refused} & {"mislabelled", "too fast"}


@FEW
@given(SEEDS)
def test_more_work_in_much_less_time_is_named(seed: int) -> None:
    """As in a published table, where 512 tokens x 64 took 794 ms and 512 x 8 took 1,597."""
    found = clean(seed, "h100-sxm", "attention_prefill")
    rng = np.random.default_rng(seed)
    large = np.flatnonzero((found.shape["batch"] == 4) & (found.shape["tokens"] >= 4096))
    point = int(rng.choice(large))
    times = found.seconds.copy()
    times[point] *= 60.0
    named = rows_of(said([seconds(found, times)]), "backwards")
    assert named == {int(found.rows[point])}


LONG = "family,device,engine,dtype,m,n,k,seconds"


def poisoned(tmp_path: Path, change: Callable[[list[str]], None]) -> list[Finding]:
    found = clean(0)
    lines = [LONG]
    for point in range(found.seconds.size):
        m, n, k = (int(found.shape[name][point]) for name in ("m", "n", "k"))
        lines.append(f"gemm,h100-sxm,vllm,bf16,{m},{n},{k},{found.seconds[point]:.6g}")
    change(lines)
    (tmp_path / "own.csv").write_text("\n".join(lines), encoding="utf-8")
    measured, unread = long_tables.read(tmp_path / "own.csv")
    return said(measured, found=unread)


def test_a_file_that_is_clean_passes(tmp_path: Path) -> None:
    assert poisoned(tmp_path, lambda lines: None) == []


@pytest.mark.parametrize(
    ("line", "text", "kind"),
    [
        (5, "gemm,h100-sxm,vllm,bf16,1,1,1024,1024,1e-5", "shifted"),
        (5, "gemm,h100-sxm,vllm,bf16,1,1024,1e-5", "shifted"),
        (7, "gemm,h100-sxm,vllm,bf16,x,1,1024,1024", "unreadable"),
        (7, "gemm,h100-sxm,vllm,bf16,0,1024,1024,1e-5", "unreadable"),
        (7, "gemm,h100-sxm,vllm,bf16,8.5,1024,1024,1e-5", "unreadable"),
        (7, 'gemm,h100-sxm,vllm,bf16,"1\n2",1024,1024,1e-5', "unreadable"),
        (7, "gemm,h100-sxm,vllm,bf16,8,1024,1024,", "unreadable"),
        (7, "gemm,h100-sxm,vllm,bf16,8,1024,1024,nan", "impossible"),
        (9, "gemm,h100-sxm,vllm,bf16,8,1024,1024,-1e-5", "impossible"),
    ],
)
def test_lines_of_a_file_are_counted_as_a_person_does(tmp_path: Path, line: int, text: str, kind: str) -> None:
    def change(lines: list[str]) -> None:
        lines[line - 1] = text

    (finding,) = poisoned(tmp_path, change)
    assert (finding.kind, finding.rows, finding.severity) == (kind, (line,), LEFT_OUT)
    assert finding.line().startswith(f"own.csv: row {line}: ")


def test_rows_behind_a_field_of_two_lines_keep_their_numbers(tmp_path: Path) -> None:
    def change(lines: list[str]) -> None:
        lines[6] = 'gemm,h100-sxm,vllm,bf16,"1\n2",1024,1024,1e-5'
        lines[9] = "gemm,h100-sxm,vllm,bf16,8,1024,1024,-1e-5"

    assert [finding.rows for finding in poisoned(tmp_path, change)] == [
        (7,),
        (11,),
    ]  # the tenth entry, a line further down


def test_strict_refuses_and_accept_lets_pass() -> None:
    found = clean(2)
    times = found.seconds.copy()
    times[3] *= 1000.0
    bad = seconds(found, times)
    assert {finding.severity for finding in said([bad], strict=True)} == {REFUSED}
    accepted = lint.check([bad], accept=("outlier", "backwards"))
    assert {finding.severity for finding in accepted.findings} == {NOTED}
    assert accepted.measured[0].seconds.size == found.seconds.size


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("batch,context,heads,kv_heads,head_dim", "attention_decode,1,100,8,32,128", "kv_heads is 32, more than heads"),
        ("tokens,experts,experts_per_token,hidden,intermediate", "grouped_gemm,8,4,8,512,512", "more than experts"),
        ("message_bytes,ranks", "all_reduce,4096,1", "ranks is 1, not a size"),
    ],
)
def test_shapes_that_cannot_be_are_named(tmp_path: Path, header: str, row: str, said: str) -> None:
    family, _, numbers = row.partition(",")
    text = f"family,device,dtype,{header},seconds\n{family},h100-sxm,bf16,{numbers},1e-5\n"
    (tmp_path / "own.csv").write_text(text, encoding="utf-8")
    measured, (finding,) = long_tables.read(tmp_path / "own.csv")
    assert measured == []
    assert (finding.kind, finding.rows) == ("unreadable", (2,))
    assert said in finding.message


def test_columns_without_a_value_and_computed_ones_are_noted() -> None:
    """As in published tables: power of 0 W throughout, memory that is size plus a constant."""
    rng = np.random.default_rng(0)
    sizes = rng.uniform(1, 80, 20).round(2)
    rows = [
        {"power_w": 0.0, "size_gb": size, "max_ram_gb": round(size + 2.5, 2), "capped_ms": time * 1.3, "time_ms": time}
        for size, time in zip(sizes.tolist(), rng.uniform(1, 9, 20).tolist(), strict=True)
    ]
    findings = lint.columns("own.csv", rows)
    assert {finding.severity for finding in findings} == {NOTED}
    assert [finding.kind for finding in findings] == ["empty column", "derived column", "derived column"]
    text = " ".join(finding.message for finding in findings)
    assert "power_w is 0 in all of 20 rows" in text
    assert "max_ram_gb = size_gb + 2.5" in text
    assert "capped_ms = time_ms * 1.3" in text
    noisy = [
        {**row, "power_w": 300.0 + row["time_ms"], "max_ram_gb": row["size_gb"] * rng.uniform(1, 2)} for row in rows
    ]
    assert [
        f.message for f in lint.columns("own.csv", noisy) if "max_ram" in f.message or "power_w is" in f.message
    ] == []


def test_further_columns_of_a_file_are_looked_at(tmp_path: Path) -> None:
    lines = [f"{LONG},power_w,note"]
    lines += [f"gemm,h100-sxm,vllm,bf16,{m},4096,4096,{1e-5 * m},0,x" for m in (1, 2, 3, 4, 5, 6)]
    (tmp_path / "own.csv").write_text("\n".join(lines), encoding="utf-8")
    (finding,) = lint.columns("own.csv", long_tables.extras(tmp_path / "own.csv"))
    assert finding.line() == "own.csv: power_w is 0 in all of 6 rows: not measured"

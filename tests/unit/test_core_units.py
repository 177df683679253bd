"""Quantities as text, names among known ones, number formats: round trips, and text that nobody can mean."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmstone.core import dtypes, units
from gemmstone.core.errors import BadRequest, GemmstoneError, MissingBackend, NoAnswer
from gemmstone.core.lookup import fold, nearest, unknown

DIMENSIONS = ("bytes", "bytes_per_s", "flop", "flop_per_s", "s", "w", "j", "usd_per_h", "g_per_kwh", "hz", "count")


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("80 GB", "bytes", 80e9),
        ("80GiB", "bytes", 80 * 2**30),
        ("1.5TB/s", "bytes_per_s", 1.5e12),
        ("989 TFLOP/s", "flop_per_s", 989e12),
        ("4000 TOP/s", "flop_per_s", 4e15),
        ("50ms", "s", 0.05),
        ("2 h", "s", 7200.0),
        ("3 min", "s", 180.0),
        ("1 µs", "s", 1e-6),
        ("700 W", "w", 700.0),
        ("1.2kW", "w", 1200.0),
        ("1 kWh", "j", 3.6e6),
        ("2.5 $/h", "usd_per_h", 2.5),
        ("12k", "count", 12_000.0),
        ("1_000", "count", 1000.0),
        ("-3e2", "count", -300.0),
        (".5", "count", 0.5),
        (8, "bytes", 8.0),
    ],
)
def test_parse(text: str | float, dimension: str, value: float) -> None:
    assert units.parse(text, dimension) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "GB", "eighty GB", "80 XB", "80 GB/s", "80 GBs", "1e999", "nan", "inf", "--5", "1 2", "0x10", "5;rm", "٣ GB",
        "1" * 65, "9" * 1_000_000, float("nan"), float("inf"), 10**400, -(10**4000), True, "80 mm", "1e5e5",
    ],
)  # fmt: skip
def test_parse_refuses_what_is_no_quantity(text: str | float | int) -> None:
    with pytest.raises(BadRequest) as refusal:
        units.parse(text, "bytes")
    assert len(str(refusal.value)) < 300
    assert "\n" not in str(refusal.value)


@given(text=st.text(max_size=80), dimension=st.sampled_from(DIMENSIONS))
def test_parse_answers_or_refuses_any_text(text: str, dimension: str) -> None:
    with suppress(BadRequest):
        assert math.isfinite(units.parse(text, dimension))


@given(
    value=st.floats(1e-6, 1e17),
    dimension=st.sampled_from(["bytes", "bytes_per_s", "flop", "flop_per_s", "w", "j", "s"]),
)
def test_show_and_parse_are_inverse_to_the_digits_shown(value: float, dimension: str) -> None:
    if dimension in ("bytes", "bytes_per_s", "flop", "flop_per_s"):
        value = max(value, 1.0)  # there are no milli-bytes
    assert units.parse(units.show(value, dimension, digits=6), dimension) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (0.0, "s", "0 s"),
        (0.9996, "s", "1 s"),
        (119.0, "s", "119 s"),
        (7200.0, "s", "2 h"),
        (999.6e9, "bytes", "1 TB"),
        (-3e9, "bytes", "-3 GB"),
        (float("nan"), "w", "-"),
        (float("inf"), "w", "inf"),
        (12_345.0, "count", "12,345"),
    ],
)
def test_show(value: float, dimension: str, text: str) -> None:
    assert units.show(value, dimension) == text


def test_fold_and_nearest() -> None:
    assert fold("  NVIDIA H100 80GB_HBM3 ") == "nvidia-h100-80gb-hbm3"
    assert nearest("h1000-sxm", ["h100-sxm", "a100-sxm-80gb", "t4"])[0] == "h100-sxm"
    assert nearest("zzzz", ["h100-sxm"]) == []


def test_unknown_suggests_or_lists_and_stays_short() -> None:
    assert str(unknown("device", "h1000", ["h100", "t4"])) == "unknown device 'h1000': did you mean 'h100'?"
    assert str(unknown("device", "zzzz", ["h100", "t4"])) == "unknown device 'zzzz': known: h100, t4"
    assert len(str(unknown("device", "z" * 10**6, ["h100"]))) < 200
    assert str(unknown("model", "zz", [f"m{i:03}" for i in range(500)])).endswith("m039 ...")


def test_exit_codes() -> None:
    assert [kind("x").exit_code for kind in (BadRequest, NoAnswer, MissingBackend)] == [2, 1, 3]
    assert NoAnswer("x", detail={"a": 1}).detail == {"a": 1}
    assert isinstance(BadRequest("x"), GemmstoneError)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("bfloat16", "bf16"), (" FP8 ", "fp8"), ("e4m3", "fp8"), ("fp4", "nvfp4"), ("awq", "int4"), ("gptq", "int4"),
        ("w4a16", "int4"), ("w8a8", "fp8"), ("W8A16", "int8"), ("w2a8", "int2"), ("w16a16", "bf16"), ("q4_k_m", "q4_k_m"),
    ],
)  # fmt: skip
def test_number_formats_have_many_names(name: str, canonical: str) -> None:
    assert dtypes.resolve(name) == canonical


@pytest.mark.parametrize("name", ["", "fp7", "w3a16", "w4a3", "w4a16" * 100, "bf16; fp8"])
def test_unknown_number_formats_are_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="number format"):
        dtypes.resolve(name)


def test_every_name_of_a_format_leads_to_a_size() -> None:
    assert {dtypes.resolve(name) for name in (*dtypes.BYTES, *dtypes.ALIASES)} == set(dtypes.BYTES)
    with pytest.raises(BadRequest, match="no size"):
        dtypes.size("fp7")


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("bf16", 16),
        ("nvfp4", 4.5),  # a byte of scale for 16 values
        ("mxfp4", 4.25),  # a byte of scale for 32 values
        ("int2", 2.25),  # one fp16 scale for 64 values
        ("int4", 4.15625),  # 2.5 bytes of scale and zero for 128 values
        ("q8_0", 8.5),  # ggml's block_q8_0: 2 bytes of scale and 32 of values
        ("q4_0", 4.5),  # ggml's block_q4_0: 2 bytes of scale and 16 of values for 32
        ("q6_k", 6.5625),  # ggml's block_q6_K: 210 bytes for 256
    ],
)
def test_bits_per_weight(name: str, bits: float) -> None:
    assert 8 * dtypes.size(name) == bits


def test_arithmetic_falls_back_to_wider_units() -> None:
    assert dtypes.compute_formats("fp8-block") == ("fp8", "bf16", "fp16", "fp32")
    assert dtypes.compute_formats("q4_k_m") == ("bf16", "fp16", "fp32")

"""The packaged reference cases: published measurements, today's errors on them, and the bounds that these must not exceed.

After a change that is meant to move errors: `python tests/golden/test_reference_cases.py` renews docs/accuracy.md, and with
`--bounds` also records today's medians as the bounds. A worse bound is a decision: say in the commit why it is worth it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from gemmstone import api
from gemmstone.report.accuracy_page import page
from gemmstone.validate import bounds, facts
from gemmstone.validate.bounds import Bound
from gemmstone.validate.checks import Check, checks
from gemmstone.validate.groups import groups, worst

PAGE = Path(__file__).resolve().parents[2] / "docs" / "accuracy.md"
RENEW = "if that is meant: python tests/golden/test_reference_cases.py [--bounds]"
WORST_SHOWN = 25


@pytest.fixture(scope="module")
def cases() -> list[facts.Fact]:
    return facts.packaged()


@pytest.fixture(scope="module")
def found(cases: list[facts.Fact]) -> list[Check]:
    return checks(cases)


# The cases ------------------------------------------------------------------------------------------------------------


def test_every_case_has_a_name_of_its_own_a_source_and_a_reason(cases: list[facts.Fact]) -> None:
    assert [name for name, count in Counter(fact.id for fact in cases).items() if count > 1] == []
    for fact in cases:
        assert fact.source.startswith("https://"), fact.id
        assert fact.why, fact.id


def test_no_column_of_a_case_is_there_in_vain(cases: list[facts.Fact]) -> None:
    """A misspelt column would be carried along unread, and the case would be another than the one that was measured."""
    known = {"id", "kind", "fitted_with", "why", "source", "op", "dtype", "m", "n", "k", "ranks", "message_bytes"}
    known |= {"model", "hardware", "num_devices", "engine", "engine_version", "weights", "activations", "kv"}
    known |= {
        "tp",
        "pp",
        "dp",
        "ep",
        "attention_dp",
        "prefill",
        "decode",
        "prefill_max_num_seqs",
        "decode_max_num_seqs",
    }
    known |= {"input_tokens", "output_tokens", "length_spread", "mode", "load", "requests_per_slot", "max_num_seqs"}
    known |= {"energy_scope", "power_cap_w"}
    known |= {"layers", "hidden", "intermediate", "heads", "head_dim", "vocabulary", "parameters", "batch", "sequence"}
    for fact in cases:
        assert {name for name in fact.row if not name.startswith(facts.MEASURED)} <= known


def test_the_cases_span_what_is_predicted(found: list[Check]) -> None:
    assert len({check.fact.id for check in found}) >= 300
    devices = {check.device for check in found}
    assert len(devices) >= 25
    assert devices >= {"v100-pcie-16gb", "t4", "a100-sxm-80gb", "rtx-3090", "h100-sxm", "h200-sxm", "b200-sxm", "gb200"}
    assert devices >= {"mi250", "mi300x", "max-1550", "gaudi2", "gaudi3", "m3-max", "rpi-5", "snapdragon-8-elite"}
    assert {check.engine for check in found} >= {"vllm", "sglang", "trtllm", "llamacpp", "transformers", "deepspeed"}
    assert {check.precision for check in found} >= {
        "fp32",
        "bf16",
        "fp8",
        "fp8-block",
        "nvfp4",
        "int8",
        "int4",
        "q4_k_m",
    }
    assert {check.metric for check in found} >= {
        "ttft_s",
        "tpot_s",
        "output_tokens_per_s",
        "total_tokens_per_s",
        "energy_j_per_output_token",
        "power_w_per_device",
        "memory_bytes_per_device",
        "time_s",
        "flop_per_s",
    }
    assert {check.fact.row.get("op", "") for check in found} >= {
        "gemm",
        "all_reduce",
        "all_gather",
        "all_to_all",
        "training_step",
    }


def test_no_case_is_a_copy_of_a_table(cases: list[facts.Fact]) -> None:
    """Facts are typed in by the handful: no source stands for more than a sixth of them."""
    sources = Counter(re.split(r"[ (]", fact.source)[0] for fact in cases)
    assert max(sources.values()) <= len(cases) / 6


def test_rows_that_coefficients_were_fitted_on_are_known_as_such(cases: list[facts.Fact]) -> None:
    """The engines' coefficients name their tables; what MLPerf and llama.cpp publish was never in one."""
    kinds = {fact.kind: {other.fitted for other in cases if other.kind == fact.kind} for fact in cases}
    assert kinds["closed loop"] == kinds["static batch"] == kinds["training step, Languini"] == {True}
    assert kinds["offline, MLPerf"] == kinds["decode, llama.cpp"] == kinds["memory, Qwen"] == {False}
    assert kinds["decode, Qwen speed"] == {True, False}  # three of them gave the launch time of an eager engine


def test_nearly_every_case_is_answered(found: list[Check]) -> None:
    assert sum(check.answered for check in found) >= 0.98 * len(found)


@pytest.mark.parametrize("name", ["fitted", "never fitted"])
def test_seven_to_nine_in_ten_measured_values_lie_in_the_80_percent_band(found: list[Check], name: str) -> None:
    """A band that holds less is too narrow, one that holds more says nothing; on rows that no coefficient saw, too."""
    (group,) = (group for group in groups(found, "fitted") if group.name == name)
    assert group.answered >= 200
    assert group.band_coverage is not None
    assert 0.7 <= group.band_coverage <= 0.9, f"{group.band_coverage:.1%} of {group.answered} values {name}"


# The bounds -----------------------------------------------------------------------------------------------------------


def test_no_group_is_worse_than_its_bound(found: list[Check]) -> None:
    broken = bounds.exceeded(found, bounds.recorded())
    assert not broken, "\n".join([*broken, RENEW])


def test_the_bounds_are_of_the_groups_there_are(found: list[Check]) -> None:
    assert set(bounds.recorded()) == set(bounds.current(found)), RENEW


def test_a_prediction_that_gets_worse_breaks_bounds(found: list[Check]) -> None:
    now = bounds.current(found)
    assert bounds.exceeded(found, now) == []
    slower = [
        replace(check, value=1.5 * max(check.value, check.measured)) if check.fact.kind == "static batch" else check
        for check in found
    ]
    broken = bounds.exceeded(slower, now)
    assert any(text.startswith("kind,metric: static batch, total_tokens_per_s: the median") for text in broken)
    assert not any("llama.cpp" in text for text in broken)


def test_refusing_the_hard_cases_breaks_bounds(found: list[Check]) -> None:
    hard = {check.fact.id for check in worst(found, 40)}
    easier = [replace(check, problem="refused") if check.fact.id in hard else check for check in found]
    group = {group.name: group for group in groups(easier, "")}["all"]
    assert group.median_error < {group.name: group for group in groups(found, "")}["all"].median_error
    assert any("values are answered" in text for text in bounds.exceeded(easier, bounds.current(found)))


def test_a_better_prediction_breaks_none_and_a_tenth_is_allowed(found: list[Check]) -> None:
    right = [replace(check, value=check.measured) for check in found]
    assert bounds.exceeded(right, {**bounds.current(found)}) == []
    name, bound = next(iter(bounds.current(found).items()))
    for factor, count in ((1.12, 1), (1.05, 0)):
        assert len(bounds.exceeded(found, {name: Bound(bound.median_error / factor, bound.answered)})) == count


# The page -------------------------------------------------------------------------------------------------------------


def rendered() -> str:
    medians = {name: bound.median_error for name, bound in bounds.recorded().items()}
    return page(api.validate(worst=WORST_SHOWN), medians)


def sections(text: str) -> dict[str, list[str]]:
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.splitlines()[1:] for part in parts}


def near(one: str, other: str) -> bool:
    """Two cells of which one may be a little older than the other: same words, numbers apart by a tenth or little more."""
    number = re.compile(r"\d+(?:\.\d+)?")
    if number.sub("#", one) != number.sub("#", other):
        return one == other
    slack = 15.0 if re.fullmatch(r"\d+%", one) else 1.0 if one.endswith("%") else 0.05
    pairs = zip(number.findall(one), number.findall(other), strict=True)
    return all(abs(float(a) - float(b)) <= slack + 0.1 * max(float(a), float(b)) for a, b in pairs)


def test_the_page_says_what_comes_out() -> None:
    """Words, groups and counts are today's, errors within a tenth; the rows furthest off are among today's furthest."""
    shown, today = sections(PAGE.read_text(encoding="utf-8")), sections(rendered())
    assert list(shown) == list(today), RENEW
    for title in shown:
        if title in ("Furthest off", "Without an answer"):
            continue
        assert len(shown[title]) == len(today[title]), f"{title}: {RENEW}"
        for line, fresh in zip(shown[title], today[title], strict=True):
            if not fresh.startswith("|"):
                assert line == fresh, RENEW
                continue
            cells = list(zip(line.split(" | "), fresh.split(" | "), strict=True))
            assert all(near(one, other) for one, other in cells), f"{line!r} is {fresh!r} now; {RENEW}"


def test_the_worst_rows_on_the_page_are_the_worst_there_are(found: list[Check]) -> None:
    rows = re.findall(
        r"\(([\w.-]+)\) \| (\w+) \|", "\n".join(sections(PAGE.read_text(encoding="utf-8"))["Furthest off"])
    )
    assert len(rows) == WORST_SHOWN, RENEW
    furthest = {(check.fact.id, check.metric) for check in worst(found, 2 * WORST_SHOWN)}
    assert sum(row in furthest for row in rows) >= 0.8 * WORST_SHOWN, RENEW
    assert rows[0] in {(check.fact.id, check.metric) for check in worst(found, 5)}, RENEW


def test_a_page_that_flatters_is_noticed() -> None:
    assert near("14.1%", "14.9%")
    assert not near("14.1%", "19.9%")
    assert not near("yes", "no")
    assert not near("81%", "55%")
    assert near("1.02", "0.98")
    assert not near("48", "54")


if __name__ == "__main__":
    if "--bounds" in sys.argv:
        bounds.write(checks(facts.packaged()))
    PAGE.write_text(rendered(), encoding="utf-8")

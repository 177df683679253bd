"""Times of prompts and tokens fitted to tables, and rows that cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from splitwise_table import A100_TP2, H100_TP8, points

from gemmstone.calibrate import phases
from gemmstone.calibrate.phases import Phase
from gemmstone.core.errors import BadRequest


def made() -> list[Phase]:
    """What 30 ms + 0.2 ms a sequence + 0.5 us a cached token, and prompts that bend at 1,024 tokens, would measure."""
    return [
        Phase(
            batch=batch,
            input_tokens=length,
            prompt_s=0.05 + 1e-5 * batch * length + 8e-5 * max(0, batch * length - 1024),
            token_s=0.03 + 2e-4 * batch + 5e-7 * batch * length,
        )
        for batch in (1, 2, 4, 8, 16, 32)
        for length in (128, 512, 2048)
    ]


def test_a_fit_finds_what_made_the_times() -> None:
    found = phases.fit(made())
    assert found.token == pytest.approx((0.03, 2e-4, 5e-7), rel=1e-6)
    assert found.token_error < 1e-9
    assert found.prompt_error < 0.02  # the bend is one of 24 places
    assert found.bend_tokens == pytest.approx(1024, rel=0.4)
    assert found.token_s(64, 64 * 512) == pytest.approx(0.03 + 0.0128 + 0.016384, rel=1e-6)
    assert found.prompt_s(65536) == pytest.approx(0.05 + 0.65536 + 8e-5 * 64512, rel=0.02)


def test_the_published_table_is_fitted_within_its_bars() -> None:
    found = phases.fit(points(H100_TP8))
    assert found.token_error <= 0.06
    assert found.prompt_error <= 0.10
    assert found.token_holdout <= 0.06


def test_a_prompt_that_took_less_than_a_smaller_one_is_named() -> None:
    wrong = phases.suspicious(points(A100_TP2))
    assert list(wrong) == [13]
    assert wrong[13] == "row 13: prompts of 64 x 512 tokens take 794 ms, row 12: 32 x 512 take 6633 ms"
    assert phases.suspicious(points(H100_TP8)) == {}
    assert phases.suspicious(made()) == {}


def test_without_that_row_the_rest_fits() -> None:
    rows = points(A100_TP2)
    assert phases.fit(rows).prompt_error > 0.10
    assert phases.fit(rows[:-1]).prompt_error < 0.05


def test_no_power_is_named() -> None:
    rows = [replace(row, power_frac=0.4) for row in made()]
    rows[4] = replace(rows[4], power_frac=0.0)
    assert phases.suspicious(rows) == {5: "row 5: power is 0, which no device that runs draws"}


def test_a_scaled_copy_of_a_table_is_no_measurement() -> None:
    """The rows of the capped H100: prompts 1.30 times as long, tokens the same to the last digit."""
    free = points(H100_TP8)
    capped = [replace(row, prompt_s=1.3 * row.prompt_s) for row in free]
    assert phases.copies({"free": free, "capped": capped}) == [
        "capped prompt_s = free prompt_s * 1.3",
        "capped token_s = free token_s",
    ]
    measured = [replace(row, prompt_s=row.prompt_s * (1.1 + 0.02 * (row.batch % 3))) for row in free]
    assert (
        phases.copies({"free": free, "capped": [replace(row, token_s=1.01 * row.token_s + 1e-4) for row in measured]})
        == []
    )


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (made()[:5], "6 to 100000 rows, not to 5"),
        ([*made(), Phase(batch=1, input_tokens=8, prompt_s=0.0, token_s=1.0)], "row 19 cannot be: 1 x 8"),
        ([*made(), Phase(batch=1, input_tokens=8, prompt_s=1.0, token_s=float("nan"))], "row 19 cannot be"),
    ],
)
def test_rows_that_cannot_be_fitted(rows: list[Phase], complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        phases.fit(rows)

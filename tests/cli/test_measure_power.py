"""gemmstone measure power."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def test_the_meters_of_this_machine(gemmstone: Callable[..., Any]) -> None:
    document = gemmstone("measure", "power", "--for", "0", "--json").document
    modelled = document["meters"][[row["meter"] for row in document["meters"]].index("modelled")]
    assert (modelled["here"], modelled["source"]) == (True, "modelled")
    assert 0 < modelled["error_frac"] < 1
    assert all(row["here"] or row["why"] for row in document["meters"])


def test_a_reading_too_short_is_said(gemmstone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's window is a fifth of a second; a longer pause of this process would make it an answer, so both may come."""
    monkeypatch.setenv("COLUMNS", "160")  # cells of a narrow table are broken into lines
    done = gemmstone("measure", "power", "--for", "1ms", "--device", "cpu")
    assert done.code == 0
    assert "modelled (modelled)" in done.out
    assert "is too short" in done.out or " W" in done.out


def test_nonsense_is_one_line(gemmstone: Callable[..., Any]) -> None:
    for arguments in (("--for", "soon"), ("--for", "-1s"), ("--device", "tpu")):
        done = gemmstone("measure", "power", *arguments)
        assert done.code == 2
        assert done.err.count("\n") == 1

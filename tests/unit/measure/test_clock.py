"""The clock that code gets: a chain whose operations take one clock each."""

from __future__ import annotations

import pytest

from gemmstone.core.errors import MissingBackend
from gemmstone.measure import clock, native

MASK = (1 << 64) - 1


def by_hand(x: int, a: int, b: int, rounds: int) -> int:
    for _ in range(8 * rounds):
        x = ((x + a) & MASK) ^ b
    return x


def test_the_chain_does_every_one_of_its_operations() -> None:
    """What a compiler folded would still give this; that it takes the time of all is what the next test is for."""
    compiled = clock.compiled()
    assert compiled is not None
    assert compiled(5, 7, 11, 1000) == by_hand(5, 7, 11, 1000)
    numba = clock._by_numba()
    assert numba is not None
    assert numba(5, 7, 11, 1000) == by_hand(5, 7, 11, 1000)


def test_the_fastest_of_the_chains_is_the_clock() -> None:
    """Chains of 524,288 clocks that take 0.262144 ms at best: 2 GHz. The others met something else."""
    ends = iter([0.0, 3e-4, 1.0, 1.0 + 2.62144e-4, 2.0, 2.0 + 9e-4])
    found = clock.effective_hz(3, chain=lambda x, a, b, rounds: x, clock=lambda: next(ends))
    assert found == pytest.approx(2e9)


def test_what_cannot_be_a_clock_is_none() -> None:
    ends = iter([0.0, 1e-9])
    assert clock.effective_hz(1, chain=lambda x, a, b, rounds: x, clock=lambda: next(ends)) is None
    assert clock.effective_hz(1, chain=lambda x, a, b, rounds: x, clock=lambda: 1.0) is None


def test_a_processor_of_today_has_between_half_and_seven_gigahertz() -> None:
    """A chain that was folded would come out far above."""
    found = clock.effective_hz()
    assert found is not None
    assert 0.1e9 < found < 7e9


def test_without_a_compiler_numba_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(source: str, flags: object = ()) -> None:
        raise MissingBackend("no C compiler was found")

    monkeypatch.setattr(native, "compile", missing)
    clock.compiled.cache_clear()
    try:
        chain = clock.compiled()
    finally:
        clock.compiled.cache_clear()
    assert chain is not None
    assert chain(1, 2, 3, 10) == by_hand(1, 2, 3, 10)

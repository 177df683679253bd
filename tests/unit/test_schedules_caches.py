"""Pools, budgets, streamed weights and speculation by hand, and what always holds of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.core.errors import BadRequest
from gemmstone.graph.techniques.eviction import Eviction
from gemmstone.simulate.schedules import cache_budget, few_bits, padding, speculation
from gemmstone.simulate.schedules.kv_pool import Instances, KvPool, serve
from gemmstone.simulate.schedules.weight_streaming import Streaming, even_pace, held_blocks, stream


def sound(pool: KvPool) -> None:
    """Every page is free or held once, and the ledger says by whom."""
    held = sum(pool.held.values(), np.zeros_like(pool.capacity))
    assert np.array_equal(pool.free + held, pool.capacity)
    assert pool.free.min(initial=0) >= 0
    assert all(pages.min() >= 0 and pages.sum() == pool.pages[request] for request, pages in pool.held.items())
    ledger = np.zeros_like(pool.lent)
    for request, pages in pool.held.items():
        ledger[:, pool.home[request]] += pages
    assert np.array_equal(ledger, pool.lent)
    borrowed, lent = ledger.sum(axis=0) - np.diag(ledger), ledger.sum(axis=1) - np.diag(ledger)
    assert borrowed.sum() == lent.sum()
    if not pool.borrows:
        assert not lent.any()


class TestPool:
    def test_pages_come_from_home_first(self) -> None:
        pool = KvPool([10, 10, 10])
        assert pool.take(0, home=0, pages=8)
        assert pool.lent.tolist() == [[8, 0, 0], [0, 0, 0], [0, 0, 0]]

    def test_the_longest_request_gives_its_pages_away(self) -> None:
        """8 of 10 pages are the first request's; who needs 5 finds 2 free and gets 3 of its, which go where most is free."""
        pool = KvPool([10, 10, 12])
        assert pool.take(0, home=0, pages=8)
        assert pool.take(1, home=0, pages=5)
        assert pool.held[0].tolist() == [5, 0, 3]
        assert pool.held[1].tolist() == [5, 0, 0]
        assert pool.moved == 3
        sound(pool)

    def test_a_request_that_is_the_longest_goes_elsewhere_itself(self) -> None:
        pool = KvPool([10, 20])
        assert pool.take(0, home=0, pages=4)
        assert pool.take(1, home=0, pages=20)
        assert pool.held[0].tolist() == [4, 0]
        assert pool.held[1].tolist() == [6, 14]
        assert (pool.moved, pool.most(0)) == (0, 30)
        pool.release(1)
        assert pool.free.tolist() == [6, 20]

    def test_a_reserve_stays_with_the_creditor(self) -> None:
        pool = KvPool([4, 10])
        assert not pool.take(0, home=0, pages=12, reserve=3)
        assert pool.free.tolist() == [4, 10]
        assert not pool.held
        assert pool.take(0, home=0, pages=11, reserve=3)
        pool = KvPool([0, 100, 90])
        assert pool.take(0, home=0, pages=150, reserve=10)
        assert pool.free.tolist() == [0, 10, 30]

    def test_no_one_borrows_where_that_is_off(self) -> None:
        pool = KvPool([4, 10], borrows=False)
        assert not pool.take(0, home=0, pages=5)
        assert pool.take(0, home=0, pages=4)
        assert (pool.most(0), pool.most(1)) == (4, 10)

    @settings(max_examples=80, deadline=None)
    @given(
        st.lists(st.integers(0, 30), min_size=1, max_size=5),
        st.booleans(),
        st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(0, 25), st.booleans()), max_size=40),
    )
    def test_pages_are_conserved(self, capacity: list[int], borrows: bool, moves: list) -> None:
        pool = KvPool(capacity, borrows=borrows)
        for request, home, pages, gives_back in moves:
            if gives_back and request in pool.held:
                pool.release(request)
            else:
                own = pool.home.get(request, home % len(capacity))
                before, had = pool.free.sum(), request in pool.held
                if pool.take(request, own, pages, reserve=pages % 4):
                    assert pool.free.sum() == before - pages
                else:
                    assert pool.free.sum() == before
                    assert had == (request in pool.held)
            sound(pool)


PLAIN = Instances(count=2, pages=100, base_s=0.01)


class TestServingFromAPool:
    def test_one_request_by_hand(self) -> None:
        """30 steps of 10 ms behind a prompt of 32 tokens at 1 ms."""
        one = replace(PLAIN, count=1, prompt_token_s=1e-3)
        found = serve(one, [32], [30], [0])
        assert found.total_s == pytest.approx(0.032 + 30 * 0.01)
        assert (found.tokens, found.finished, found.most_lent) == (30, 1, 0)

    def test_who_fits_nowhere_is_refused_and_nothing_hangs(self) -> None:
        found = serve(PLAIN, [10_000, 100], [10, 10], [0, 0])
        assert (found.refused, found.finished) == (1, 1)
        assert serve(PLAIN, [], [], []).total_s == 0.0

    def test_a_full_cache_preempts_and_finishes(self) -> None:
        """Two of 60 pages at the end each do not fit into 100: the later one starts anew."""
        one = replace(PLAIN, count=1)
        found = serve(one, [480, 480], [480, 480], [0, 0])
        assert found.preemptions == 1
        assert (found.finished, found.tokens) == (2, 960)
        together = serve(replace(PLAIN), [480, 480], [480, 480], [0, 0])
        assert together.preemptions == 0  # the neighbour lends
        assert together.total_s < found.total_s

    @pytest.mark.parametrize("word", ["home", "homes"])
    def test_refusals(self, word: str) -> None:
        lengths, homes = (([1], [1, 2], [0])[0:2], [0]) if word == "home" else (([1], [1]), [7])
        with pytest.raises(BadRequest, match=word):
            serve(PLAIN, *lengths, homes)


class TestBudget:
    def test_chunks_by_hand(self) -> None:
        found = cache_budget.prefill(10, 4, Eviction(budget=5))
        assert found.tokens.tolist() == [4, 4, 2]
        assert found.past.tolist() == [0, 4, 5]
        assert found.held.tolist() == [4, 8, 7]
        assert found.kept.tolist() == [4, 5, 5]
        assert found.pairs == 10 + (16 + 10) + (10 + 3)
        assert cache_budget.prefill(10, 4).pairs == 55

    def test_what_stays(self) -> None:
        assert cache_budget.recent_and_first(10, 4, first=1).tolist() == [0, 7, 8, 9]
        assert cache_budget.recent_and_first(3, 4).tolist() == [0, 1, 2]
        scores = np.array([5.0, 1, 9, 2, 7, 3])
        assert cache_budget.keep(scores, 2, 2).tolist() == [2, 4]
        assert cache_budget.keep(scores, 2, 3, recent=1).tolist() == [2, 4, 5]
        assert cache_budget.keep(scores, 2, 2, recent=2).tolist() == [4, 5]
        assert cache_budget.keep(scores, 100, 6).tolist() == [0, 1, 2, 3, 4, 5]

    def test_refusals(self) -> None:
        with pytest.raises(BadRequest, match="at least one token"):
            cache_budget.prefill(0, 4)
        with pytest.raises(BadRequest, match="recent"):
            cache_budget.keep(np.ones(4), 2, 2, recent=3)
        with pytest.raises(BadRequest, match="some bytes"):
            cache_budget.growth(1, 0, 1.0)
        with pytest.raises(BadRequest, match="words"):
            few_bits.pack(np.zeros(5, dtype=int), 2)
        with pytest.raises(BadRequest, match="at least one token"):
            padding.saved_frac([3, 0])


class TestStreaming:
    def test_pages_over_the_passes(self) -> None:
        for prompt, made, size in ((98, 32, 16), (1, 1, 16), (16, 17, 16), (5, 40, 1), (33, 3, 7)):
            assert held_blocks(prompt, made, size) == sum(math.ceil((prompt + j) / size) for j in range(made))

    def test_few_requests_take_a_pass_a_token(self) -> None:
        found = stream(Streaming(pass_s=2.0, blocks=100), [10, 20], [3, 5])
        assert (found.passes, found.total_s, found.tokens) == (5, 10.0, 38)
        assert found.most_blocks == 3  # the longer one has just filled its first two

    def test_a_pass_lasts_as_long_as_its_slowest_part(self) -> None:
        slow = Streaming(pass_s=1.0, blocks=100, device_s_per_token=0.1, host_s_per_cached_token=0.2)
        # 50 prompt tokens on the device, then one token with 51 cached ones on the host
        assert stream(slow, 50, 2).total_s == pytest.approx(5.0 + 0.2 * 51)

    def test_passes_apart(self) -> None:
        """Two prompts, room for one page each: the second waits, its own pass when the first is done."""
        tight = Streaming(pass_s=1.0, blocks=1)
        assert stream(tight, [10, 10], [3, 3]).passes == 6
        assert stream(replace(tight, mixed=False), [10, 10], [3, 3]).passes == 6

    def test_preemption_recomputes_and_finishes(self) -> None:
        """Three of two pages each when grown, four pages: the last one gives its page back."""
        found = stream(Streaming(pass_s=1.0, blocks=4, prompt_tokens=math.inf), [16, 16, 16], [10, 10, 10])
        assert found.preemptions >= 1
        assert found.tokens == 78
        assert found.most_blocks <= 4

    def test_pace(self) -> None:
        assert even_pace(Streaming(pass_s=1.0, blocks=100, block_tokens=1), 10, 1) == 100.0

    @pytest.mark.parametrize(
        ("system", "lengths"),
        [
            (Streaming(pass_s=1.0, blocks=1), (17, 1)),
            (Streaming(pass_s=0.0, blocks=1), (1, 1)),
            (Streaming(pass_s=1.0, blocks=1), (0, 1)),
            (Streaming(pass_s=1.0, blocks=1, prompt_tokens=0.0), (1, 1)),
        ],
    )
    def test_refusals(self, system: Streaming, lengths: tuple[int, int]) -> None:
        with pytest.raises(BadRequest):
            stream(system, *lengths)


class TestSpeculation:
    def test_what_surely_stands_and_what_cannot(self) -> None:
        rng = np.random.default_rng(0)
        sure = np.array([[[0.0, 1.0]], [[1.0, 0.0]]])
        target = np.array([[[0.0, 1.0], [1.0, 0.0]]] * 2)
        found = speculation.verify(np.array([[1], [0]]), sure, target, rng)
        assert found.accepted.tolist() == [1, 0]
        assert found.follows.tolist() == [0, 1]

    def test_a_token_without_weight_is_never_drawn(self) -> None:
        weights = np.tile([0.0, 0.3, 0.0, 0.7, 0.0], (10_000, 1))
        assert set(speculation.drawn(weights, np.random.default_rng(1)).tolist()) == {1, 3}

    def test_acceptance(self) -> None:
        assert speculation.acceptance(np.array([0.5, 0.5]), np.array([0.9, 0.1])) == pytest.approx(0.6)

    @pytest.mark.parametrize(("accept", "rounds"), [(0.0, 100), (1.0, 25)])
    def test_rounds_at_the_ends(self, accept: float, rounds: int) -> None:
        found = speculation.timeline(100, drafted=3, accept=accept, draft_s=1.0, verify_s=2.0, transfer_s=0.5)
        assert (found.tokens, found.rounds, found.total_s) == (100, rounds, rounds * 5.5)

    def test_tokens_of_a_round_are_those_of_the_formula(self) -> None:
        found = speculation.timeline(50_000, drafted=4, accept=0.7, draft_s=0.0, verify_s=1.0)
        assert found.tokens_per_s == pytest.approx((1 - 0.7**5) / (1 - 0.7), rel=0.02)

    def test_refusals(self) -> None:
        with pytest.raises(BadRequest, match="chance"):
            speculation.timeline(1, drafted=1, accept=1.1, draft_s=0.0, verify_s=1.0)
        with pytest.raises(BadRequest, match="verifying"):
            speculation.timeline(1, drafted=1, accept=1.0, draft_s=0.0, verify_s=0.0)


def test_the_page_says_what_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/physics/schedules.md").read_text(encoding="utf-8")
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.split() == ["blocking", "1.2", "non-blocking", "1.0", "3165", "3948"]

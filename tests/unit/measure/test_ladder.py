"""The ladder: right results at awkward sizes, wrong ones unmasked, rungs admitted by time, formats that are what they are called."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from gemmstone.core.errors import BadRequest, MissingBackend, NoAnswer
from gemmstone.core.measurement import Conditions
from gemmstone.measure import native
from gemmstone.measure.ladder import check, climb, in_c, libraries, session
from gemmstone.measure.ladder.arithmetic import flop, largest_n, peak_share, speedup
from gemmstone.measure.ladder.document import document, warnings
from gemmstone.measure.ladder.problem import Problem, Ready, made
from gemmstone.measure.ladder.rungs import ALL, GPU, ONE, RUNGS, Rung
from gemmstone.measure.peak import Peak
from gemmstone.store import runs

needs_compiler = pytest.mark.skipif(not native.compiler(), reason="no C compiler on this machine")
IN_C = [rung for rung in RUNGS if rung.name.startswith("C, ")]
NUMPY = [rung for rung in RUNGS if rung.name.startswith("NumPy")]


def times(problem: Problem, factor: float = 1.0, operands: tuple[str, ...] = ("float32", "float32")) -> Ready:
    """A product that is right but for a factor."""
    out = np.empty_like(problem.a)

    def call() -> None:
        np.multiply(problem.a @ problem.b, np.float32(factor), out=out)

    return Ready(call=call, rows=lambda rows: out[rows], clear=lambda: out.fill(np.nan), operands=operands)


def refused(problem: Problem) -> Ready:
    raise MissingBackend("it is not here")


def failed(problem: Problem) -> Ready:
    raise RuntimeError("not implemented\nwith a long story")


RIGHT = Rung("right", "fp32", ONE, times, 4)
WRONG = Rung("wrong", "fp32", ALL, lambda problem: times(problem, 1.01), 4)
MISLABELLED = Rung("NumPy as it comes", "fp32", ALL, lambda problem: times(problem, operands=("float64", "float64")), 4)


def climbed(n: int = 40, budget_s: float = 2.0, rungs: tuple[Rung, ...] = (RIGHT,)) -> climb.Ladder:
    return climb.climb(n, budget_s=budget_s, rungs=rungs)


@pytest.fixture
def known_peak(monkeypatch):
    """Peaks that need no measuring: 100 GFLOP/s of the processor, no device."""

    def no_device() -> str:
        raise MissingBackend("no CUDA device")

    monkeypatch.setattr(
        climb, "peak", lambda dtype, threads, stand_in: Peak(dtype=dtype, flop_per_s=1e11, threads=threads, how="known")
    )
    monkeypatch.setattr(climb.on_gpu, "device_name", no_device)


class TestArithmetic:
    def test_flop_of_a_square_product(self):
        assert flop(1024) == 2**31
        assert flop(1) == 2

    def test_shares_and_speedups(self):
        assert speedup(6.0, 2.0) == 3.0
        assert peak_share(1000, 0.1, 4e10) == pytest.approx(0.5)

    @pytest.mark.parametrize("n", [1, 2, 63, 4096, 46341, 100_000])
    def test_largest_n_is_the_last_that_fits(self, n):
        assert largest_n(flop(n) / 1e12, 1e12) in (n, n - 1)  # a time that was rounded may fall just short
        assert largest_n((flop(n) + flop(n + 1)) / 2 / 1e12, 1e12) == n

    def test_no_time_is_no_product(self):
        assert largest_n(0.0, 1e12) == 0


class TestCheck:
    @pytest.mark.parametrize("n", [1, 5, 64, 200])
    def test_float32_products_are_within_their_bound(self, n):
        problem = made(n, 1)
        exact = check.reference(problem.a, problem.b)
        assert check.error(problem.a @ problem.b, exact) <= check.bound("fp32", exact)

    def test_the_bound_tells_formats_apart(self):
        problem = made(256, 1)
        exact = check.reference(problem.a, problem.b)
        half = problem.a.astype(np.float16).astype(np.float32) @ problem.b.astype(np.float16).astype(np.float32)
        assert check.error(half, exact) > check.bound("fp32", exact)
        assert check.error(half, exact) < check.bound("fp16", exact)
        bounds = [check.bound(dtype, exact) for dtype in ("fp64", "fp32", "fp16", "tf32", "bf16", "fp8")]
        assert bounds == sorted(bounds)

    def test_one_wrong_element_is_seen(self):
        problem = made(100, 1)
        exact = check.reference(problem.a, problem.b)
        found = problem.a @ problem.b
        found[37, 99] += 0.01
        assert check.error(found, exact) > check.bound("fp32", exact)

    def test_what_is_no_number_is_an_infinite_error(self):
        problem = made(4, 1)
        exact = check.reference(problem.a, problem.b)
        assert check.error(np.full((4, 4), np.nan), exact) == math.inf

    def test_large_products_are_checked_by_rows(self, monkeypatch):
        monkeypatch.setattr(check, "ALL_ROWS", 100)
        problem = made(150, 1)
        exact = check.reference(problem.a, problem.b)
        assert len(set(exact.rows)) == check.SAMPLED_ROWS
        assert {0, 149} <= set(exact.rows)
        whole = problem.a.astype(float) @ problem.b.astype(float)
        assert np.array_equal(exact.product, whole[exact.rows])

    def test_the_reference_is_exact(self):
        # operands are multiples of 2^-23: products and sums below 2^7 fit in 53 bits, in any order
        problem = made(64, 1)
        backwards = problem.a[:, ::-1].astype(float) @ problem.b[::-1].astype(float)
        assert np.array_equal(check.reference(problem.a, problem.b).product, backwards)

    def test_float64_is_not_float32(self):
        with pytest.raises(BadRequest, match="labelled fp32, but it multiplies float64"):
            check.check_formats("fp32", ["float64", "float32"])
        check.check_formats("fp32", ["float32", "torch.float32"])
        check.check_formats("tf32", ["torch.float32"])
        check.check_formats("fp8", ["torch.float8_e4m3fn"])
        with pytest.raises(BadRequest):
            check.check_formats("bf16", ["torch.float16"])


@needs_compiler
class TestInC:
    @pytest.mark.parametrize("rung", IN_C, ids=lambda rung: rung.name)
    @pytest.mark.parametrize("n", [1, 2, 11, 13, 33, 97, 130])
    def test_products_of_any_size(self, rung, n):
        problem = made(n, 2, seed=n)
        ready = rung.prepare(problem)
        ready.clear()
        ready.call()
        exact = check.reference(problem.a, problem.b)
        assert check.error(ready.rows(exact.rows), exact) <= check.bound("fp32", exact)

    def test_steps_cover_the_whole_product(self, monkeypatch):
        monkeypatch.setattr(in_c, "CALL_FLOP", 2.0 * 50 * 50 * 7)  # seven rows a call
        monkeypatch.setattr(in_c, "PANEL_COLUMNS", 17)
        for rung in IN_C:
            problem = made(50, 2)
            ready = rung.prepare(problem)
            ready.clear()
            ready.call()
            exact = check.reference(problem.a, problem.b)
            assert check.error(ready.rows(exact.rows), exact) <= check.bound("fp32", exact)

    def test_a_part_says_its_share(self, monkeypatch):
        monkeypatch.setattr(in_c, "PART_FLOP", 2.0 * 60 * 60 * 6)
        problem = made(60, 1)
        ready = IN_C[0].prepare(problem)
        ready.clear()
        assert ready.part is not None
        assert ready.part() == 0.1
        found = ready.rows(np.arange(60))
        assert np.isfinite(found[:6]).all()
        assert np.isnan(found[6:]).all()

    @pytest.mark.parametrize("n", [1, 100, 1024, 5000])
    @pytest.mark.parametrize("threads", [1, 2, 7])
    def test_blocks_are_tiles_that_fit_the_caches(self, n, threads, monkeypatch):
        monkeypatch.setattr(in_c.host, "cache_bytes", lambda: {1: 32 << 10, 2: 1 << 20})
        rows, depth = in_c.blocks(n, threads, 12)
        assert rows % 12 == 0
        assert 12 * depth * 4 <= 16 << 10  # a strip in half of the first cache
        assert (rows - 12) * depth * 4 <= 512 << 10  # a block in half of the second, up to a tile
        assert rows * threads * math.ceil(n / (rows * threads)) >= n

    def test_openmp_on_one_core_is_no_rung(self):
        with pytest.raises(BadRequest, match="one core"):
            in_c.blocked(openmp=True)(made(8, 1))


class TestLibraries:
    @pytest.mark.parametrize("rung", NUMPY, ids=lambda rung: rung.name)
    def test_numpy(self, rung):
        problem = made(50, 1)
        ready = rung.prepare(problem)
        check.check_formats(rung.dtype, ready.operands)
        ready.call()
        exact = check.reference(problem.a, problem.b)
        assert check.error(ready.rows(exact.rows), exact) <= check.bound(rung.dtype, exact)

    def test_numpys_own_numbers_are_not_float32(self):
        ready = libraries.numpy("float64")(made(4, 1))
        with pytest.raises(BadRequest):
            check.check_formats("fp32", ready.operands)

    def test_without_pytorch_its_rungs_say_so(self, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "torch", None)
        for rung in RUNGS:
            if "PyTorch" in rung.name or "Triton" in rung.name:
                with pytest.raises(MissingBackend, match="PyTorch is not installed"):
                    rung.prepare(made(16, 1))


@pytest.mark.usefixtures("known_peak")
class TestClimb:
    def test_a_wrong_result_is_not_ranked(self):
        ladder = climbed(rungs=(RIGHT, WRONG))
        found = document(ladder)
        right, wrong = found["rungs"]
        assert (right["correct"], right["speedup"], found["first"]) == (True, 1.0, "right")
        assert (wrong["correct"], wrong["speedup"], wrong["peak_frac"]) == (False, None, None)
        assert wrong["max_rel_error"] == pytest.approx(0.01, rel=0.01)
        assert any("wrong: wrong result, not ranked" in line for line in warnings(ladder, found))

    def test_a_wrong_first_rung_is_not_what_others_are_compared_with(self):
        assert document(climbed(rungs=(WRONG, RIGHT)))["first"] == "right"

    def test_a_mislabelled_rung_is_refused(self):
        found = document(climbed(rungs=(RIGHT, MISLABELLED)))
        assert [one["name"] for one in found["rungs"]] == ["right"]
        assert "multiplies float64" in found["skipped"][0]["reason"]

    def test_what_cannot_run_is_left_out_with_its_reason(self):
        missing, broken = (Rung(name, "fp32", GPU, prepare, 0) for name, prepare in (("a", refused), ("b", failed)))
        found = document(climbed(rungs=(missing, RIGHT, broken)))
        assert [one["name"] for one in found["rungs"]] == ["right"]
        reasons = [one["reason"] for one in found["skipped"]]
        assert reasons == ["it is not here", "RuntimeError: not implemented"]

    def test_nothing_that_runs_is_no_answer(self):
        with pytest.raises(NoAnswer, match="it is not here"):
            climbed(rungs=(Rung("a", "fp32", ONE, refused, 0),))

    def test_numbers_of_a_rung_follow_from_its_time(self):
        ladder = climbed(n=100, rungs=(RIGHT,))
        (rung,) = document(ladder)["rungs"]
        assert rung["gflop_per_s"] == pytest.approx(2e6 / rung["seconds"] / 1e9)
        assert rung["peak_frac"] == pytest.approx(rung["gflop_per_s"] * 1e9 / 1e11)

    def test_other_formats_are_labelled(self):
        ladder = climbed(rungs=(*NUMPY, RIGHT))
        found = document(ladder)
        assert found["dtype"] == "fp32"  # though a float64 rung stands before
        assert [one["same_dtype"] for one in found["rungs"]] == [one["dtype"] == "fp32" for one in found["rungs"]]
        assert any("NumPy float64 (fp64)" in line for line in warnings(ladder, found))

    def test_a_rate_above_the_peak_is_told(self, monkeypatch):
        monkeypatch.setattr(
            climb, "peak", lambda dtype, threads, stand_in: Peak(dtype=dtype, flop_per_s=1.0, threads=1, how="known")
        )
        ladder = climbed()
        assert any("faster than the peak as it was measured" in line for line in warnings(ladder, document(ladder)))

    def test_the_larger_of_two_peaks_counts(self, monkeypatch):
        rates = iter([5e10, 7e10])
        monkeypatch.setattr(
            climb,
            "peak",
            lambda dtype, threads, stand_in: Peak(dtype=dtype, flop_per_s=next(rates), threads=1, how="known"),
        )
        (found,) = document(climbed())["peaks"]
        assert found["flop_per_s"] == 7e10

    def test_the_document_is_json(self):
        made = document(climbed(rungs=(RIGHT, WRONG)))
        assert json.loads(json.dumps(made, allow_nan=False)) == made  # no infinity, no tuple, no number of NumPy's

    def test_sizes_beyond_memory_are_refused_in_a_line_that_says_what_fits(self, monkeypatch):
        monkeypatch.setattr(climb.host, "available_bytes", lambda: 12e9 / climb.MEMORY_SHARE)
        with pytest.raises(BadRequest, match=r"--n 31622 fits"):
            climb.climb(100_000, budget_s=1.0)
        with pytest.raises(BadRequest, match="from 1 to 1,000,000"):
            climb.climb(0, budget_s=1.0)

    def test_a_rung_that_needs_more_memory_is_left_out(self, monkeypatch):
        hungry = RIGHT._replace(name="hungry", extra_bytes=1e12)
        found = document(climbed(rungs=(RIGHT, hungry)))
        assert "GB more" in found["skipped"][0]["reason"]


class Guesses:
    """Rungs with guessed times, and the clock stopped."""

    @staticmethod
    def of(*seconds: float | None) -> list[climb.Climbed]:
        return [
            climb.Climbed(rung=RIGHT, guess_s=one, skipped="" if one is not None else "not here") for one in seconds
        ]


class TestAdmission:
    @pytest.fixture(autouse=True)
    def _stopped(self, monkeypatch):
        monkeypatch.setattr(climb.time, "perf_counter", lambda: 100.0)

    def admitted(self, budget_s: float, *seconds: float | None) -> list[bool]:
        return [not one.skipped for one in climb._admitted(Guesses.of(*seconds), 100.0 + budget_s)]

    def test_the_fastest_are_taken_first(self):
        assert self.admitted(10.0, 6.0, 5.0, 1.0, 0.5) == [False, True, True, True]  # 8 s are planned

    def test_what_was_left_out_stays_so(self):
        assert self.admitted(10.0, None, 1.0) == [False, True]

    def test_trifles_are_never_left_out(self):
        assert self.admitted(-5.0, 0.01, 1.0, 0.09) == [True, False, True]

    def test_what_is_left_out_says_how_long_it_takes(self):
        one = climb._admitted(Guesses.of(600.0), 130.0)[0]
        assert one.skipped == "would take about 10 min a pass: more --budget"
        assert one.guess_s == 600.0

    @pytest.mark.parametrize(
        ("seconds", "said"), [(0.5, "0.5 s"), (90.0, "90 s"), (180.0, "3 min"), (9000.0, "2.5 h"), (400_000.0, "4.6 d")]
    )
    def test_times_in_words(self, seconds, said):
        assert climb._about(seconds) == said

    def test_a_rung_gets_its_pass_and_its_part_of_what_is_not_planned(self):
        left = Guesses.of(2.0, 3.0)
        assert climb._share_s(left, 115.0) == pytest.approx(2.0 + 10.0 / 2 * climb.PLANNED)
        assert climb._share_s(left, 90.0) == 2.0


def test_slow_rungs_are_warmed_up_by_a_part_and_take_few_passes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(climb.time, "perf_counter", lambda: now[0])
    calls: list[str] = []

    def call() -> None:
        calls.append("call")
        now[0] += 4.0

    def part() -> float:
        calls.append("part")
        return 0.01

    ready = Ready(call=call, rows=lambda rows: rows, clear=lambda: None, operands=(), part=part)
    samples, warm_up, each = climb._samples(ready, 4.0, 9.0)
    assert (list(samples), warm_up, each) == ([4.0, 4.0], 0, 1)
    assert calls == ["part", "call", "call"]
    samples, *_ = climb._samples(ready, 4.0, 1000.0)
    assert len(samples) == climb.LONG_PASSES


def a_climb(**changes: Any) -> climb.Climbed:
    settled = {
        "rung": NUMPY[1],
        "samples_s": (0.5,) * 8,
        "max_error": 1e-7,
        "bound": 1e-5,
        "threads": 4,
        "busy_cores": 1.0,
    }
    return climb.Climbed(**{**settled, **changes})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, True),
        ({"busy_cores": 3.9}, False),
        ({"threads": 1}, False),
        ({"conditions": Conditions(elapsed_s=1.0, other_cpu_frac=0.5)}, False),  # others kept them busy
    ],
)
def test_idle_cores_are_told(changes, told):
    ladder = climb.Ladder(
        n=10, threads=4, budget_s=1.0, elapsed_s=1.0, rungs=(a_climb(**changes),), peaks={("fp32", "cpu"): None},
        checked_rows=10, conditions=Conditions(),
    )  # fmt: skip
    assert any("cores were left idle" in line for line in warnings(ladder, document(ladder))) is told


@pytest.mark.usefixtures("known_peak")
class TestSession:
    @pytest.fixture(autouse=True)
    def _few(self, monkeypatch, tmp_path):
        monkeypatch.setenv("GEMMSTONE_STORE", str(tmp_path))
        monkeypatch.setattr(climb, "RUNGS", (RIGHT, WRONG))
        monkeypatch.setattr(session.climb, "__kwdefaults__", {**session.climb.__kwdefaults__, "rungs": (RIGHT, WRONG)})

    def test_a_ladder_is_kept_as_a_run(self):
        found = session.measured(session.Asked(n=30, budget_s=2.0, label="mine"))
        run = runs.find("latest", "ladder")
        assert (run.id, run.label, run.complete) == (found["run"], "mine", True)
        assert run.summary["fastest"] == "right"
        kept = runs.measurements(run)
        assert [one.backend for one in kept] == ["right", "wrong"]
        assert kept[1].max_error == pytest.approx(0.01, rel=0.01)
        assert kept[0].flop == flop(30)
        assert kept[0].call.shape == {"m": 30, "n": 30, "k": 30}
        assert kept[0].median_s == pytest.approx(found["rungs"][0]["seconds"])
        assert runs.drafts() == []

    def test_a_result_that_is_no_number_is_kept_as_wrong_and_not_as_unchecked(self):
        assert climb.measurement(a_climb(max_error=math.inf), 30).max_error == math.inf

    def test_it_need_not_be_kept(self):
        assert session.measured(session.Asked(n=30, budget_s=2.0, store=False))["run"] is None
        assert runs.all_runs() == []

    def test_a_store_that_cannot_be_written_does_not_take_the_answer(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("GEMMSTONE_STORE", str(tmp_path / "file"))
        found = session.measured(session.Asked(n=30, budget_s=2.0))
        assert found["run"] is None
        assert any(line.startswith("not kept: ") for line in found["warnings"])

    @pytest.mark.parametrize(
        "asked", [session.Asked(n=8, budget_s=0.0), session.Asked(n=8, budget_s=1e9), session.Asked(n=0), session.Asked(n=8, seed=-1)]
    )  # fmt: skip
    def test_bad_questions_are_refused(self, asked):
        with pytest.raises(BadRequest):
            session.measured(asked)

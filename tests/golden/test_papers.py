"""Every number of docs/papers.md: what a paper prints, what comes out here, and that the page says so.

The rows are in tests/golden/papers/. After a change of what they give, `python tests/unit/test_docs.py` renews the page.
"""

from __future__ import annotations

import math
import re
import time

import pytest
from papers import PAPERS, apex, models, page
from papers.row import Paper, Row
from papers.survey import SURVEY, Named

from gemmstone import api
from gemmstone.calibrate.lint import common_perplexity
from gemmstone.core.errors import BadRequest, GemmstoneError
from gemmstone.plan.question import Question

ROWS = [(paper, row) for group in PAPERS.values() for paper in group for row in paper.rows]
# The papers that this page answers for.
SEEDS = [
    "genz",
    "nanoflow",
    "moe-lens",
    "long-context-peak",
    "apex",
    "kivi",
    "locret",
    "infinite-llm",
    "deepseek-v3-hw",
    "speculative",
    "peft-survey",
    "efficientllm",
    "energonai",
    "dovetail",
    "superpipeline",
    "fastswitch",
    "duplex",
    "sn40l",
    "cloudmatrix384",
    "accllm",
    "gpperf",
    "modern-gpu-cores",
    "hopper-bench",
    "languini",
    "idealized-runtime",
    "carbon-mixed",
    "compute-governance",
    "splitwise",
    "ncpp",
    "mlir-costmodel",
    "proxylessnas",
    "env-stability",
    "hpx-stream",
    "two-pass-softmax",
    "geb-1.3b",
    "stable-code",
    "monocoder",
    "smallthinker",
    "matmul-free",
    "o1-eval",
    "mobile-measure",
    "melt",
]


@pytest.mark.parametrize(("paper", "row"), ROWS, ids=[f"{paper.seed}: {row.setting}" for paper, row in ROWS])
def test_a_number_comes_out_as_its_row_promises(paper: Paper, row: Row) -> None:
    value = row.here()
    assert math.isfinite(value)
    assert row.holds(value), f"{row.said} is printed, {row.shown(value)} comes out; {row.why}"


def test_every_paper_is_there_and_every_bar_has_its_reason() -> None:
    assert [paper.seed for group in PAPERS.values() for paper in group] == SEEDS
    for paper, row in ROWS:
        held = row.expected is not None, row.low is not None or row.high is not None
        assert sum(held) == 1, f"{paper.seed}: {row.setting}"
        assert row.expected is None or row.why or row.flag, f"{paper.seed}: {row.setting}"


def test_the_page_says_what_comes_out() -> None:
    """Digits that coefficients move may be older than the coefficients, words may not."""
    shown, today = page.read().splitlines(), page.rendered().splitlines()
    fitted = {row.setting for _, row in ROWS if row.fitted}

    def words(line: str) -> str:
        setting = line[2:].partition(" | ")[0]
        return re.sub(r"[-+]?\d[\d,.]*%?", "#", line) if setting in fitted else line

    assert [words(line) for line in shown] == [words(line) for line in today], "run: python tests/unit/test_docs.py"


def test_a_flag_is_raised_only_where_the_number_is_wrong() -> None:
    right = Row(setting="s", said="2", here=lambda: 2.0, expected=2.0, within=0.01, flag="wrong")
    assert not right.holds(2.0)
    assert right.holds(3.0)


@pytest.mark.parametrize("named", SURVEY, ids=lambda named: named.name)
def test_classes_of_the_survey_have_an_action_or_a_reason(named: Named) -> None:
    """arXiv:2409.00088 names quantization, pruning, distillation, parameter sharing and collaboration, and hardware for them."""
    if named.works is None:
        assert named.action.startswith("left out: ")
    else:
        assert named.works()


def test_the_survey_is_covered() -> None:
    names = " ".join(named.name for named in SURVEY)
    for word in ("quantization", "pruning", "distillation", "parameter sharing", "collaborative"):
        assert word in names


# APEX -----------------------------------------------------------------------------------------------------------------


def test_the_rate_that_apex_prints_lies_in_our_band_and_tokens_are_conserved() -> None:
    metrics = apex.apex_answer("concurrency", 14.4, tensor_parallel=2)["metrics"]
    band, requests = metrics["output_tokens_per_s"], metrics["requests_per_s"]["value"]
    assert band["low"] <= 336.752 <= band["high"]
    assert band["value"] == pytest.approx(209 * requests)
    assert metrics["total_tokens_per_s"]["value"] == pytest.approx((1198 + 209) * requests)


def test_plans_rank_as_apex_ranks_them() -> None:
    """TP 2 over PP 2; attention replicated over dense feed-forward blocks, its second, is refused with the reason."""
    question = Question(
        model="llama-3-70b",
        hardware=("2xh100-sxm",),
        workload=api.Workload(**apex.APEX_WORK),
        weights=("bf16",),
        kv_caches=("bf16",),
        gpu_memory_utilization=0.99,
        objective="latency",
        top=10,
    )
    found = api.plan(question)["candidates"]
    splits = [(c["deployment"]["tensor_parallel"], c["deployment"]["pipeline_parallel"]) for c in found]
    assert splits.index((2, 1)) < splits.index((1, 2))
    with pytest.raises(BadRequest, match="attention-dp needs experts"):
        apex.apex_answer("concurrency", 15.4, tensor_parallel=1, attention_dp=2)


def test_a_search_over_eight_devices_takes_less_than_a_minute() -> None:
    started = time.process_time()
    question = Question(model="llama-3-70b", hardware=("8xh100-sxm",), workload=api.Workload(**apex.APEX_WORK))
    assert api.plan(question)["best"]
    assert time.process_time() - started < 60


# Quality and closed models --------------------------------------------------------------------------------------------


def test_a_model_without_public_facts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(GemmstoneError, match="o1-preview"):
        api.predict(api.Scenario(model="o1-preview", hardware="h100-sxm"))


def test_reasoning_costs_what_its_tokens_cost() -> None:
    assert models.reasoning() == pytest.approx(10.0, rel=0.01)


def test_perplexity_does_not_depend_on_the_tokens_it_was_taken_over() -> None:
    """A text of 12 words, 100 outcomes each, guessed blindly: as 12 words of 1 in 100 or as 24 halves of 1 in 10."""
    words, halves = 12 * math.log(1 / 100), 24 * math.log(1 / 10)
    assert common_perplexity(words, 12) == pytest.approx(100.0)
    assert common_perplexity(halves, 12) == pytest.approx(100.0)
    assert common_perplexity(halves, 24) == pytest.approx(10.0)  # of its own tokens, which flatters the halves
    assert common_perplexity(0.0, 12) == 1.0

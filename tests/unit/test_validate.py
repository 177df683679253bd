"""Facts from tables, checks against predictions, and errors by group."""

from __future__ import annotations

import math

import pytest

from gemmstone import api
from gemmstone.core.errors import BadRequest
from gemmstone.ops.collective import all_reduce
from gemmstone.ops.matmul import gemm
from gemmstone.predict.pricing import Pricing
from gemmstone.simulate.scenario import Hardware, load_cluster
from gemmstone.validate import facts, kernels
from gemmstone.validate.bounds import exceeded
from gemmstone.validate.checks import Check, checks
from gemmstone.validate.energy import energy_row
from gemmstone.validate.facts import Fact
from gemmstone.validate.groups import groups, refusals, worst

CASE = {"model": "llama-3.1-8b", "hardware": "h100-sxm", "engine": "vllm", "input_tokens": "512", "output_tokens": "64"}


def fact(name: str = "a", *, kind: str = "k", fitted: bool = False, measured: dict | None = None, **row: str) -> Fact:
    return Fact(id=name, kind=kind, row={**CASE, **row}, measured=measured or {"tpot_s": 0.01}, fitted=fitted)


def check(value: float, measured: float = 1.0, *, band: float = 1.2, problem: str = "", **changes: object) -> Check:
    labels = {"device": "d", "engine": "e", "model": "m", "precision": "bf16", "metric": "tpot_s", **changes}
    made = fact(kind=str(labels.pop("kind", "k")), fitted=bool(labels.pop("fitted", False)))
    return Check(
        fact=made, measured=measured, value=value, low=value / band, high=value * band, problem=problem, **labels
    )


# Tables ---------------------------------------------------------------------------------------------------------------


def written(folder, name: str, text: str) -> str:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder)


def test_a_folder_of_tables_is_read_and_what_is_something_else_is_left_alone(tmp_path):
    written(tmp_path, "cases/serving_closed_loop.csv", "model,hardware,measured_tpot_s,id\nllama-3.1-8b,l4,0.05,x\n")
    written(
        tmp_path, "own.csv", "model,hardware,measured_ttft_s,measured_tpot_s\nllama-3.1-8b,l4,,0.05\nqwen3-8b,l4,,\n"
    )
    written(tmp_path, "notes.csv", "who,what\nme,this\n")
    written(tmp_path, "prices.csv", "model,hardware,price\nm,l4,3\n")
    found = facts.folder(str(tmp_path))
    assert [(fact.id, fact.kind, dict(fact.measured)) for fact in found] == [
        ("x", "closed loop", {"tpot_s": 0.05}),
        ("own:2", "own", {"tpot_s": 0.05}),
    ]


def test_a_folder_is_fitted_where_coefficients_name_its_tables(tmp_path):
    written(tmp_path, "serving_offline.csv", "model,hardware,measured_tpot_s\nllama-3.1-8b,l4,0.05\n")
    written(tmp_path, "mine.csv", "model,hardware,measured_tpot_s\nllama-3.1-8b,l4,0.05\n")
    assert {fact.kind: fact.fitted for fact in facts.folder(str(tmp_path))} == {"offline": True, "mine": False}


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "fast", "1e999"])
def test_a_value_that_was_never_measured_is_refused_with_its_line(tmp_path, text):
    written(tmp_path, "own.csv", f"model,hardware,measured_tpot_s\nllama-3.1-8b,l4,0.05\nllama-3.1-8b,l4,{text}\n")
    with pytest.raises(BadRequest, match=r"own.csv, line 3: measured_tpot_s must be a positive number"):
        facts.folder(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", ""),
        ("a.csv", "\x00\x01\x02"),
        ("a.csv", "model,hardware\nllama-3.1-8b,l4\n"),
        ("a.txt", "model,hardware,measured_tpot_s\nllama-3.1-8b,l4,1\n"),
    ],
)
def test_a_folder_without_a_case_is_refused(tmp_path, name, text):
    with pytest.raises(BadRequest, match="no measured case in"):
        facts.folder(written(tmp_path, name, text))


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="is not a folder"):
        facts.folder(str(tmp_path / "nowhere"))


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "MAX_FILE_BYTES", 40)
    written(tmp_path, "own.csv", "model,hardware,measured_tpot_s\nllama-3.1-8b,l4,0.05\n")
    with pytest.raises(BadRequest, match="no measured case"):
        facts.folder(str(tmp_path))


def test_too_many_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "MAX_ROWS", 1)
    written(tmp_path, "own.csv", "model,hardware,measured_tpot_s\nllama-3.1-8b,l4,0.05\nllama-3.1-8b,l4,0.05\n")
    with pytest.raises(BadRequest, match="more than 1 rows"):
        facts.folder(str(tmp_path))


LEADERBOARD = {
    "model_id": "Qwen/Qwen3-30B-A3B-Instruct-2507",
    "nickname": "Qwen 3 30B A3B",
    "task": "gpqa",
    "gpu_model": "H100",
    "num_gpus": "8",
    "tensor_parallel": "1.0",
    "data_parallel": "1.0",
    "expert_parallel": "8.0",
    "max_num_seqs": "32.0",
    "avg_batch_size": "31.9",
    "avg_output_len": "800.5",
    "weight_precision": "bfloat16",
    "energy_per_token_joules": "0.3",
}


def test_rows_of_the_energy_leaderboard_become_cases():
    made = energy_row(LEADERBOARD)
    assert (made["hardware"], made["num_devices"], made["tp"], made["ep"]) == ("h100-sxm", "8", "8", "8")
    assert (made["load"], made["measured_energy_j_per_output_token"]) == ("31.9", "0.3")
    spread = energy_row({**LEADERBOARD, "data_parallel": "8.0"})  # attention by data, experts by rank: one replica
    assert (spread["tp"], spread["attention_dp"], spread["ep"]) == ("1", "8", "8")
    assert (made["images"], energy_row({**LEADERBOARD, "task": "image-chat"})["images"]) == ("", "1")


def test_a_table_that_only_has_the_name_of_the_leaderboard_is_refused(tmp_path):
    written(tmp_path, facts.ENERGY_TABLE, "model_id,num_gpus\nQwen/Qwen3-8B,1\n")
    with pytest.raises(BadRequest, match=r"energy_mlenergy_llm.csv, line 2: not a row of the ML.ENERGY leaderboard"):
        facts.folder(str(tmp_path))


# Checks ---------------------------------------------------------------------------------------------------------------


def test_a_check_is_the_prediction_of_predict():
    (found,) = checks([fact(measured={"tpot_s": 0.02}, mode="concurrency", load="8")])
    scenario = api.Scenario(
        model="llama-3.1-8b",
        hardware="h100-sxm",
        engine="vllm",
        workload=api.Workload(input_tokens=512, output_tokens=64, load=8),
    )
    metric = api.predict(scenario)["metrics"]["tpot_s"]
    assert (found.value, found.low, found.high) == (metric["value"], metric["low"], metric["high"])
    assert found.ratio == metric["value"] / 0.02
    assert found.error == abs(found.ratio - 1)
    assert (found.device, found.engine, found.model, found.precision) == ("h100-sxm", "vllm", "llama-3.1-8b", "bf16")


def test_energy_counts_in_the_scope_that_was_metered():
    measured = {"energy_j_per_output_token": 1.0}
    device, node, other = (
        checks([fact(measured=measured, energy_scope=scope)])[0] for scope in ("", "node", "universe")
    )
    assert node.value > 1.1 * device.value
    assert "unknown energy_scope" in other.problem


def test_a_case_without_an_answer_says_why_and_stops_no_other():
    cases = [
        fact("unknown", model="no-such-model"),
        fact("large", model="llama-3.1-405b"),
        fact("fine"),
        fact("column", load="many"),
        fact("metric", measured={"colour": 1.0, "tpot_s": 0.01}),
        fact("rate", mode="rate", load="9999"),
    ]
    found = {(made.fact.id, made.metric): made for made in checks(cases)}
    assert "unknown model" in found["unknown", "tpot_s"].problem
    assert "does not fit" in found["large", "tpot_s"].problem
    assert found["fine", "tpot_s"].answered
    assert "column load" in found["column", "tpot_s"].problem
    assert found["metric", "colour"].problem == "colour is no metric of predict"
    assert found["metric", "tpot_s"].answered
    assert "cannot be sustained" in found["rate", "tpot_s"].problem
    assert math.isnan(found["unknown", "tpot_s"].error)


def test_a_kernel_is_priced_alone():
    row = {"hardware": "h100-sxm", "op": "gemm", "dtype": "bf16", "m": "4096", "n": "4096", "k": "8192"}
    measured = {"time_s": 1e-3, "flop_per_s": 5e14, "tpot_s": 1.0}
    time, rate, other = checks([Fact(id="g", kind="gemm", row=row, measured=measured)])
    pricing = Pricing(cluster=load_cluster(Hardware("h100-sxm", 1)), engine="generic")
    assert time.value == float(pricing.price(gemm("g", m=4096, n=4096, k=8192)).time_s)
    assert rate.value == pytest.approx(2 * 4096 * 4096 * 8192 / time.value)
    assert rate.low < rate.value < rate.high
    assert "not computed for a kernel" in other.problem


def test_a_collective_alone_is_that_of_the_library() -> None:
    """Tables of collectives time the library, not an engine's own all-reduce, which is quicker with small messages."""
    row = {"hardware": "h100-sxm", "op": "all_reduce", "ranks": "8", "message_bytes": "16384"}
    (alone,) = checks([Fact(id="c", kind="collectives", row=row, measured={"time_s": 2e-5})])
    cluster = load_cluster(Hardware("h100-sxm", 8))
    library, engine = (
        float(Pricing(cluster=cluster, engine=name).price(all_reduce("c", message_bytes=16384.0, ranks=8)).time_s)
        for name in ("nccl", "vllm")
    )
    assert alone.value == library > 2 * engine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "softmax"}, "unknown op 'softmax'"),
        ({"m": "0"}, "column m must be"),
        ({"m": "1e300"}, "column m must be"),
        ({"dtype": "bf17"}, "bf17"),
        ({"hardware": "h1000"}, "did you mean"),
        ({"op": "all_reduce", "ranks": "8"}, "column message_bytes"),
    ],
)
def test_a_kernel_that_makes_no_sense_is_refused(change, message):
    row = {"hardware": "h100-sxm", "op": "gemm", "m": "8", "n": "8", "k": "8", **change}
    with pytest.raises(BadRequest, match=message):
        kernels.timed(row)


def test_collectives_are_priced_among_their_ranks():
    row = {"hardware": "h100-sxm", "op": "all_reduce", "ranks": "8", "message_bytes": "268435456"}
    eight = kernels.timed(row).time_s
    assert 2 * 7 / 8 * 268435456 / 450e9 < eight < 5e-3  # no faster than a ring over NVLink
    assert kernels.timed({**row, "ranks": "2"}).time_s < eight


def test_a_training_step_is_that_of_its_formula():
    """GPT of 41 million parameters beside its table: the device's part alone is a bound from below."""
    sizes = {"layers": "4", "hidden": "768", "intermediate": "3072", "heads": "12", "head_dim": "64"}
    row = {"hardware": "a100-sxm-80gb", "op": "training_step", "vocabulary": "16384", "parameters": "53912064", **sizes}
    small = kernels.timed({**row, "batch": "1", "sequence": "512"})
    large = kernels.timed({**row, "batch": "256", "sequence": "512"})
    flop = 6 * 256 * 512 * (41329152 + 16384 * 768)
    assert flop / 312e12 < large.time_s < 20 * flop / 312e12
    assert small.time_s < large.time_s
    with pytest.raises(BadRequest, match="no training steps were measured on l4"):
        kernels.timed({**row, "hardware": "l4", "batch": "1", "sequence": "512"})


# Groups ---------------------------------------------------------------------------------------------------------------


def test_errors_of_a_group_by_hand():
    checked = [
        check(1.1),
        check(0.7),
        check(3.0, fitted=True),
        check(9.0, problem="refused"),
        check(21.0, measured=1.0),
    ]
    (group,) = groups(checked, "")
    assert (group.n, group.answered) == (5, 4)
    assert group.median_error == pytest.approx((0.3 + 2.0) / 2)
    assert group.mean_error == pytest.approx((0.1 + 0.3 + 2.0 + 5.0) / 4)  # 20 counts as 5
    assert group.bias == pytest.approx((1.1 + 3.0) / 2)
    assert group.band_coverage == 0.25  # 1.1 within a fifth
    assert group.fitted_frac == 0.2


def test_groups_by_one_facet_and_by_two():
    checked = [check(1.0, device="x", metric="ttft_s"), check(1.0, device="y"), check(1.0, device="x")]
    assert [(group.name, group.n) for group in groups(checked, "device")] == [("x", 2), ("y", 1)]
    assert [group.name for group in groups(checked, "device,metric")] == ["x, tpot_s", "x, ttft_s", "y, tpot_s"]


def test_a_group_without_an_answer_has_no_error():
    (group,) = groups([check(1.0, problem="why")], "kind")
    assert (group.answered, group.median_error, group.band_coverage) == (0, None, None)


def test_the_worst_are_furthest_by_factor_either_way():
    checked = [check(1.5), check(0.1), check(4.0), check(2.0, problem="refused")]
    assert [made.value for made in worst(checked, 2)] == [0.1, 4.0]
    assert worst(checked, 0) == []


def test_refusals_are_counted_by_reason():
    checked = [check(1.0, problem="b"), check(1.0, problem="a"), check(1.0, problem="a"), check(1.0)]
    assert [(reason, len(members)) for reason, members in refusals(checked).items()] == [("a", 2), ("b", 1)]


def test_a_bound_of_a_group_that_vanished_is_broken():
    from gemmstone.validate.bounds import Bound

    assert exceeded([check(1.0)], {"kind,metric: gone, tpot_s": Bound(0.1, 3)}) == [
        "kind,metric: gone, tpot_s: 0 values are answered, 3 were"
    ]

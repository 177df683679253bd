"""This machine's runs become a device: found by name at once, for itself alone, with errors that were held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_machine import LAYER_S, TRUTH, kept, seconds

from gemmstone import api
from gemmstone.calibrate import host_times, worth
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.measurement import Call, Conditions, Measurement
from gemmstone.measure import agreement, layer
from gemmstone.simulate import scenario

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1408,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's data folder and store of their own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("GEMMSTONE_CALIBRATION", raising=False)
    monkeypatch.setenv("GEMMSTONE_STORE", str(tmp_path / "store"))
    caches = (calibration_files.load, calibration_files._engines, calibration_files.engine_fit)
    shared = (scenario.load_cluster, scenario.pricing, scenario._system, scenario.load_model)
    for cache in (*caches, *shared):
        cache.cache_clear()
    (tmp_path / "model.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    yield tmp_path
    for cache in (*caches, *shared):
        cache.cache_clear()


def predicted(home: Path, dtype: str, batch: int, tokens: int, *edits: str, on: str = "this-machine") -> dict[str, Any]:
    """A static batch on the machine."""
    work = api.Workload(input_tokens=tokens, output_tokens=2, mode="batch", load=batch)
    choice = api.Choice(weights=dtype)
    return api.predict(
        api.Scenario(model=str(home / "model.json"), hardware=on, choice=choice, workload=work, edits=edits)
    )


def whole(dtype: str, batch: int, tokens: int, past: int) -> float:
    """Seconds of the model's layers on the made-up machine."""
    shape = {"batch": batch, "tokens": tokens, "past": past, "hidden": 512, "intermediate": 1408}
    shape |= {"heads": 8, "kv_heads": 4, "head_dim": 64}
    return 8 * seconds(Call(family="decoder_layer", dtype=dtype, shape=shape))


def test_before_any_calibration_one_line_says_what_to_run(home: Path) -> None:
    with pytest.raises(BadRequest, match="gemmstone measure kernels, then gemmstone calibrate"):
        predicted(home, "bf16", 1, 64)
    with pytest.raises(NoAnswer, match="gemmstone measure kernels"):
        api.calibrate_machine()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_forward_pass_is_predicted_from_the_kernels_that_were_measured(home: Path, dtype: str) -> None:
    run = kept()
    document = api.calibrate_machine()
    assert document["runs"] == [run.id]
    assert not document["not_fitted"]
    for fit in document["fits"]:
        assert fit["holdout_mean"] < 0.15, fit
    assert document["host"]["added"][dtype]["layer_s"] == pytest.approx(LAYER_S, rel=0.4)
    assert document["host"]["added"][dtype]["passes"] < 0.6
    for batch, tokens in ((1, 64), (1, 1024), (4, 256)):
        metrics = predicted(home, dtype, batch, tokens)["metrics"]
        head = seconds(Call(family="gemm", dtype=dtype, shape={"m": batch, "n": 32000, "k": 512}))
        assert metrics["ttft_s"]["value"] == pytest.approx(whole(dtype, batch, tokens, 0) + head, rel=0.12)
        step = whole(dtype, batch, 1, tokens) + head
        assert metrics["tpot_s"]["value"] == pytest.approx(step, rel=0.12)


def test_an_answer_says_that_it_was_fitted_and_when(home: Path) -> None:
    run = kept()
    api.calibrate_machine()
    document = predicted(home, "bf16", 1, 64)
    assert any(run.id in note and "fitted to what was measured" in note for note in document["warnings"])
    leaves = [document["tree"]]
    sources = set()
    while leaves:
        node = leaves.pop()
        leaves += node.get("parts", [])
        if not node.get("parts") and node["time_s"] > 0:
            sources.add(node["source"])
    assert sources == {"fitted"}


def test_what_if_edits_follow_physics(home: Path) -> None:
    kept()
    api.calibrate_machine()
    plain, wider, quicker = (
        predicted(home, "fp32", 1, 512, *edits)["metrics"]
        for edits in ((), ("memory.bandwidth=x2",), ("compute.peak=x2",))
    )
    assert wider["tpot_s"]["value"] < 0.75 * plain["tpot_s"]["value"]  # a step waits for the memory
    assert quicker["tpot_s"]["value"] > 0.85 * plain["tpot_s"]["value"]
    assert quicker["ttft_s"]["value"] < 0.75 * plain["ttft_s"]["value"]  # a prompt for the arithmetic


def test_the_device_names_the_run_of_every_measured_value_and_invents_no_power(home: Path) -> None:
    run = kept(cpu={"name": "A processor nobody knows", "vendor": "Nobody", "family": 1, "model": 2})
    api.calibrate_machine([run.id])
    found = device_files.describe("this-machine")
    assert api.catalog_devices("this-machine")
    values = {value["field"]: value for value in found["values"]}
    assert run.id in values["compute.peak.fp32"]["source"]
    assert run.id in values["memory.bandwidth"]["source"]
    assert values["compute.peak.bf16"]["value"] == pytest.approx(400e9)
    assert "power.tdp" not in values
    assert predicted(home, "bf16", 1, 64)["metrics"].get("power_w_per_device", {}).get("value") is None
    assert device_files.find("this-machine").tdp_w is None


def test_another_name_is_another_device_and_no_shipped_one_can_be_taken(home: Path) -> None:
    kept()
    with pytest.raises(BadRequest, match="is a device of the catalogue"):
        api.calibrate_machine(name="h100-sxm")
    with pytest.raises(BadRequest, match="no name of a machine"):
        api.calibrate_machine(name="../elsewhere")
    document = api.calibrate_machine(name="my-laptop")
    assert document["name"] == "my-laptop"
    assert predicted(home, "bf16", 1, 64, on="my-laptop")["metrics"]["ttft_s"]["value"] > 0
    with pytest.raises(BadRequest, match="not measured yet"):
        predicted(home, "bf16", 1, 64)


def test_a_calibration_changes_no_other_device(home: Path) -> None:
    before = calibration_files.load("h100-sxm"), calibration_files.engine_fit("generic", "", "h100-sxm")
    kept()
    api.calibrate_machine()
    for cache in (calibration_files.load, calibration_files._engines, calibration_files.engine_fit):
        cache.cache_clear()
    assert (calibration_files.load("h100-sxm"), calibration_files.engine_fit("generic", "", "h100-sxm")) == before


def test_the_points_themselves_are_looked_up_at_fidelity_measured(home: Path) -> None:
    kept(noise=0.0)
    api.calibrate_machine()
    work = api.Workload(input_tokens=512, output_tokens=2, mode="batch", load=1)
    asked = api.Scenario(
        model=str(home / "model.json"),
        hardware="this-machine",
        choice=api.Choice(weights="bf16"),
        workload=work,
        fidelity="measured",
    )
    document = api.predict(asked)
    assert any("pytorch 2.13.0" in note for note in document["warnings"])


def test_layers_are_taken_apart_into_the_operations_of_the_graph() -> None:
    shape = {"batch": 2, "tokens": 1, "past": 99, "hidden": 512, "intermediate": 1408, "heads": 8, "kv_heads": 4}
    parts = {op.name: op for op in layer.operations({**shape, "head_dim": 64}, "fp32")}
    assert float(parts["qkv_proj"].shape["n"]) == 16 * 64
    assert float(np.max(parts["decode_attention"].shape["context"])) == 100
    assert {op.variant for op in parts.values() if np.max(op.bytes)} == {"fp32"}
    whole = layer.operation({**shape, "head_dim": 64}, "fp32")
    assert float(np.max(whole.flop)) == sum(float(np.max(op.flop)) * op.count for op in parts.values())


def test_chosen_calls_tell_more_than_random_ones_of_equal_cost() -> None:
    """Held-out error of a fit to calls that were chosen, against fits to random calls that take as long to measure."""
    machine = worth.guessed("cpu")
    assert machine is not None
    from gemmstone.calibrate import information, processors, tables
    from gemmstone.calibrate.fit import _solve, take
    from gemmstone.predict.kernels import FORMS

    measurable, targets = worth.SPACES["gemm"]()
    space = information.space("gemm", "fp32", measurable, targets, machine)
    rates = tables.rates(machine, "fp32")
    truth = {**{n: c.start for n, c in processors.COEFFICIENTS["gemm"].items()}, **TRUTH["gemm"]}
    rng = np.random.default_rng(3)
    times = FORMS["gemm"](space.op, rates, truth).time_s * np.exp(0.05 * rng.standard_normal(len(space.calls)))
    unseen = np.arange(space.measurable, len(space.calls))

    def error(index: Any) -> float:
        found = _solve(FORMS["gemm"], take(space.op, index), times[index], rates, processors.COEFFICIENTS["gemm"])
        told = FORMS["gemm"](take(space.op, unseen), rates, found).time_s
        return float(np.mean(np.abs(told / times[unseen] - 1.0)))

    chosen = information.choose(space, count=10)
    places = {call.key: place for place, call in enumerate(space.calls[: space.measurable])}
    index = np.array([places[call.key] for call, _ in chosen])
    budget_s = float(space.cost_s[index].sum())
    random = []
    for _ in range(20):
        order = rng.permutation(space.measurable)
        random.append(error(order[np.cumsum(space.cost_s[order]) <= budget_s]))
    assert error(index) < np.median(random)
    left = [share for _, share in chosen]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.05


def test_what_to_measure_first_is_told_of_this_machine_before_and_after_a_calibration(home: Path) -> None:
    before = api.suggest_measurements("this-machine", 6)["suggested"]
    assert [row["dtype"] for row in before] == ["bf16", "fp32"] * 3
    assert len({(row["dtype"], row["m"], row["n"], row["k"]) for row in before}) == 6
    kept()
    api.calibrate_machine()
    decode = api.suggest_measurements("this-machine", 4, family="attention_decode")["suggested"]
    assert {row["device"] for row in decode} == {"this-machine"}
    with pytest.raises(BadRequest, match="which norm to measure first"):
        api.suggest_measurements("this-machine", 4, family="norm")


def test_a_calibration_that_fails_leaves_the_one_before_as_it_was(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept()
    api.calibrate_machine()
    before = predicted(home, "bf16", 1, 64)["metrics"]["ttft_s"]["value"]
    folder = calibration_files.named("this-machine")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("gemmstone.calibrate.host_times.save", lambda into, entry: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        api.calibrate_machine()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert predicted(home, "bf16", 1, 64)["metrics"]["ttft_s"]["value"] == before


def test_what_was_measured_again_counts_as_it_was_measured_last(home: Path) -> None:
    first = kept()
    again = kept([Call(family="gemm", dtype="bf16", shape={"m": 1, "n": n, "k": 512}) for n in (512, 2048, 4096)])
    document = api.calibrate_machine()
    assert document["runs"] == [first.id, again.id]
    (gemm,) = [fit for fit in document["fits"] if (fit["family"], fit["variant"]) == ("gemm", "bf16")]
    assert gemm["points"] == 6 * 7 + 1  # the 7 matrices of the first run at 6 row counts; of the second run one is new


class TestTypicalTime:
    """What counts of several passes over one call."""

    @staticmethod
    def op(*passes):
        call = Call(family="launch", dtype="fp32", shape={"size": 1.0})
        return agreement.op(
            [
                Measurement(
                    call=call,
                    backend="pytorch",
                    version="1",
                    device="cpu",
                    threads=2,
                    samples_s=np.array(samples),
                    warm_up=0,
                    calls=1,
                    round=number,
                    conditions=Conditions(elapsed_s=1.0, steal_frac=stolen),
                )
                for number, (samples, stolen) in enumerate(passes)
            ]
        )

    def test_slow_minutes_of_a_shared_machine_count_as_much_as_fast_ones(self):
        op = self.op(([1.0, 1.0, 1.0], 0.0), ([1.4, 1.4, 1.4], 0.0))
        assert host_times.typical_s(op) == pytest.approx(1.2)

    def test_a_disturbed_pass_does_not_count_beside_one_that_was_not(self):
        op = self.op(([1.0, 1.0, 1.0], 0.0), ([3.0, 3.0, 3.0], 0.5))
        assert host_times.typical_s(op) == pytest.approx(1.0)

    def test_of_disturbed_passes_the_quickest_counts(self):
        op = self.op(([2.0, 2.0, 2.0], 0.5), ([3.0, 3.0, 3.0], 0.5))
        assert host_times.typical_s(op) == pytest.approx(2.0)
        mostly_waiting = self.op(([1.0, 1.0, 5.0, 5.0, 5.0], 0.5))
        assert host_times.typical_s(mostly_waiting) == pytest.approx(host_times.DISTURBED)


def test_where_no_engine_is_named_a_machine_runs_what_was_measured_on_it(home: Path) -> None:
    kept()
    api.calibrate_machine()
    assert api.default_engine("this-machine") == "pytorch"
    assert api.default_engine("2xthis-machine") == "pytorch"
    assert api.default_engine("8xh100-sxm") == "vllm"

"""gemmstone simulate: the contract's document, its files, and requests that cannot be answered."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")
ENDS = ("mean", "p50", "p90", "p95", "p99", "max")
RECORDS = [
    "arrival_s", "input_tokens", "output_tokens", "scheduled_s", "ttft_s", "tpot_s", "e2e_s", "preemptions", "cached_tokens",
    "replica",
]  # fmt: skip
SMALL = ("llama-3.1-8b", "--on", "h100-sxm", "--rate", "4", "--requests", "200", "--input", "400", "--output", "60")


def test_the_document_has_what_the_contract_says(gemmstone):
    document = gemmstone("simulate", *SMALL, "--slo", "ttft=2s,tpot_p95=50ms", "--json").document
    assert document["schema"] == "gemmstone/simulate/1"
    metrics = document["metrics"]
    assert metrics["submitted"] == metrics["completed"] == 200
    assert metrics["output_tokens_per_s"] == pytest.approx(200 * 60 / metrics["duration_s"])
    assert metrics["goodput_requests_per_s"] == pytest.approx(metrics["requests_per_s"])
    assert metrics["energy_j"] > 0
    for name in LATENCIES:
        values = [metrics[name][end] for end in ENDS[1:]]
        assert values == sorted(values), name
        assert metrics[name]["mean"] > 0
    assert {name: judged["met"] for name, judged in document["slo"].items()} == {"ttft": True, "tpot_p95": True}


def test_latencies_of_a_light_load_are_those_that_predict_says(gemmstone):
    """Hardly anybody waits, so the formulas of an open loop and the simulation describe the same thing."""
    simulated = gemmstone("simulate", *SMALL, "--json").document["metrics"]
    predicted = gemmstone(
        "predict", "llama-3.1-8b", "--on", "h100-sxm", "--rate", "4", "--input", "400", "--output", "60", "--json"
    ).document
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        assert simulated[name]["mean"] == pytest.approx(predicted["metrics"][name]["value"], rel=0.1), name


@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_a_long_answer_does_not_delay_its_first_token(gemmstone, engine):
    """Only the prompt is tokenised before a request is scheduled."""
    asked = (
        *("llama-3.1-8b", "--on", "h100-sxm", "--engine", engine, "--rate", "4", "--input", "100", "--output", "1000"),
        "--json",
    )
    simulated = gemmstone("simulate", *asked, "--requests", "300").document["metrics"]["ttft_s"]["mean"]
    predicted = gemmstone("predict", *asked).document["metrics"]["ttft_s"]["value"]
    assert simulated == pytest.approx(predicted, rel=0.1)


@pytest.mark.parametrize("engine", ["vllm", "transformers", "llamacpp"])
def test_a_first_token_is_held_back_where_nobody_else_decodes_too(gemmstone, engine):
    asked = (*("llama-3.1-8b", "--on", "h100-sxm", "--engine", engine, "--rate", "0.1", "--input", "512"), "--json")
    simulated = gemmstone("simulate", *asked, "--requests", "50").document["metrics"]["ttft_s"]["mean"]
    predicted = gemmstone("predict", *asked).document["metrics"]["ttft_s"]["value"]
    assert simulated == pytest.approx(predicted, rel=0.1)


def test_long_prompts_do_not_take_each_others_room_in_turn(gemmstone):
    """Far too many prompts of several chunks: the cache holds seven, and as many tokens come out as formulas say."""
    asked = ("llama-3.1-70b", "--on", "4xl40s", "--input", "8000", "--output", "500", "--json")
    simulated = gemmstone("simulate", *asked, "--rate", "3", "--requests", "100").document["metrics"]
    predicted = gemmstone("predict", *asked, "--concurrency", "100").document["metrics"]["output_tokens_per_s"]["value"]
    assert simulated["output_tokens_per_s"] == pytest.approx(predicted, rel=0.15)
    assert simulated["preemptions"] < 50


def test_same_seed_same_answer_and_another_seed_another(gemmstone):
    one, again, other = (
        gemmstone("simulate", *SMALL, "--seed", seed, "--json").document["metrics"] for seed in ("1", "1", "2")
    )
    assert one == again
    assert one["ttft_s"] != other["ttft_s"]


@pytest.mark.parametrize("router", ["round-robin", "least-work", "power-of-two", "kv-aware"])
def test_replicas_share_the_requests(gemmstone, router):
    document = gemmstone("simulate", *SMALL, "--replicas", "2", "--router", router, "--json").document
    counts = [one["requests"] for one in document["replicas"]]
    assert sum(counts) == 200
    assert min(counts) > 50


def test_pools_hand_requests_over(gemmstone):
    given = (
        "llama-3.1-70b",
        "--on",
        "h100-sxm",
        "--rate",
        "2",
        "--requests",
        "100",
        "--input",
        "1000",
        "--output",
        "100",
    )
    document = gemmstone("simulate", *given, "--prefill", "1*tp4", "--decode", "1*tp4", "--json").document
    metrics = document["metrics"]
    assert metrics["completed"] == metrics["submitted"] == 100
    assert [one["requests"] for one in document["replicas"]] == [100, 100]
    # Decode workers compute no prompts, so no token waits for one.
    together = gemmstone("simulate", *given[:2], "4xh100-sxm", *given[3:], "--json").document
    assert metrics["itl_s"]["p99"] < together["metrics"]["itl_s"]["p99"]


def test_files_hold_the_requests_and_the_steps(gemmstone, tmp_path):
    table, trace, page = tmp_path / "r.csv", tmp_path / "t.json", tmp_path / "p.html"
    document = gemmstone(
        "simulate", *SMALL, "--records", str(table), "--trace", str(trace), "--report", str(page), "--json"
    ).document
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == RECORDS
    assert len(rows) == 200
    mean = sum(float(row["ttft_s"]) for row in rows) / 200
    assert mean == pytest.approx(document["metrics"]["ttft_s"]["mean"])
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event.get("ph") == "X" for event in events) > 200
    assert page.read_text().count("<html") == 1


def test_an_overload_says_so(gemmstone):
    document = gemmstone(
        "simulate", *SMALL[:4], "500", "--requests", "20000", "--input", "2000", "--output", "300", "--json"
    ).document
    assert document["stable"] is False
    assert any("grew without end" in note for note in document["warnings"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--router", "magic"), "router"),
        (("--policy", "magic"), "policy"),
        (("--batching", "magic"), "batching"),
        (("--preemption", "magic"), "preemption"),
        (("--replicas", "0"), "replicas"),
        (("--traffic", "nowhere.csv"), "nowhere.csv"),
        (("--slo", "ttft=fast"), "fast"),
        (("--slo", "mlperf:nothing"), "nothing"),
        (("--records", "r.xlsx"), "xlsx"),
        (("--rate", "-1"), "rate"),
    ],
)
def test_what_cannot_be_meant_is_one_line(gemmstone, options, word):
    done = gemmstone("simulate", *SMALL, *options)
    assert done.code == 2
    assert word in done.problem


def test_a_request_that_never_fits_is_refused_with_the_memory(gemmstone):
    done = gemmstone(
        "simulate", "llama-3.1-8b", "--on", "rtx-4090", "--rate", "1", "--requests", "5", "--input", "900000"
    )
    assert done.code == 1
    assert "does not fit" in done.problem


@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
def test_an_interruption_leaves_a_partial_answer_and_partial_records(tmp_path):
    """The command is interrupted in the middle of a long simulation."""
    records = tmp_path / "r.parquet"
    command = [
        *(
            sys.executable,
            "-m",
            "gemmstone",
            "simulate",
            "llama-3.1-70b",
            "--on",
            "8xh100-sxm",
            "--traffic",
            "lmsys-chat",
        ),
        *("--rate", "10", "--requests", "50000000", "--records", str(records), "--json"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 240
    # A group of rows is there: the file alone is opened before the first request is served.
    while not any(path.stat().st_size > 100_000 for path in tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    document = json.loads(out)
    assert document["partial"] is True
    assert 0 < document["metrics"]["completed"] < 50_000_000
    file = pq.ParquetFile(records)
    assert file.metadata.num_rows == document["metrics"]["submitted"]
    assert file.metadata.metadata[b"partial"] == b"true"


def test_a_model_of_ones_own_is_simulated_as_it_is_predicted(gemmstone, tmp_path):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 1408, "vocab_size": 32000,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    path = tmp_path / "my-model" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config), encoding="utf-8")
    document = gemmstone("simulate", str(path), *SMALL[1:], "--json").document
    assert document["metrics"]["completed"] == 200

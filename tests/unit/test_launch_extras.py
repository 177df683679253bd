"""What a launch asks for beyond the deployment: said in the engine's words or named in a comment, never dropped."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import yaml

from gemmstone.catalog.engine_files import find, published
from gemmstone.core.deployment import Deployment, Workload
from gemmstone.core.errors import BadRequest
from gemmstone.plan.engine_servers import COMMANDS, OPTIONS_FILE
from gemmstone.plan.extras import EXTRAS
from gemmstone.plan.launch import Extras, command
from tests.unit.test_launch import parsed

MODEL = "meta-llama/Llama-3.1-70B"
WORKLOAD = Workload(input_tokens=2048, output_tokens=256, load=64)
RUN = Deployment(engine="", tensor_parallel=4)
ENGINES = [name for name in published() if find(name).launch.template]
EVERYTHING = Extras(
    spec_tokens=3,
    draft_model="meta-llama/Llama-3.2-1B",
    cpu_offload_bytes=10 * 2**30,
    kv_offload_bytes=20e9,
    gpu_layers=40,
    host_expert_layers=8,
    loras=4,
    lora_rank=24,
    prefill_context_parallel=2,
    decode_context_parallel=2,
    prefix_caching=False,
    threads=16,
)
ASKED = [
    Extras(spec_tokens=2, mtp=True),
    Extras(spec_tokens=2, draft_model="x/draft"),
    Extras(cpu_offload_bytes=1e9),
    Extras(kv_offload_bytes=1e9),
    Extras(loras=2, lora_rank=16),
    Extras(prefill_context_parallel=2),
    Extras(decode_context_parallel=2),
    Extras(gpu_layers=10),
    Extras(host_expert_layers=10),
    Extras(prefix_caching=False),
]


def run_for(name: str) -> Deployment:
    return replace(RUN, tensor_parallel=1) if name == "transformers" else RUN


def text_for(name: str, extras: Extras, **changes) -> str:
    run = replace(run_for(name), **changes)
    return command(find(name), MODEL, run, WORKLOAD, devices=8, extras=extras)


def options_of(text: str) -> dict[str, object]:
    start = text.index(f"cat > {OPTIONS_FILE} <<'EOF'\n")
    return yaml.safe_load(text[start:].split("\n", 1)[1].split("\nEOF", 1)[0])


@pytest.mark.parametrize("name", ENGINES)
def test_all_extras_at_once_pass_the_parser(name):
    assert parsed(find(name), text_for(name, EVERYTHING))
    assert parsed(find(name), text_for(name, replace(EVERYTHING, draft_model="", mtp=True, prefix_caching=True)))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("extras", ASKED, ids=str)
def test_nothing_that_is_asked_for_is_dropped_in_silence(name, extras):
    assert text_for(name, extras) != text_for(name, Extras())


@pytest.mark.parametrize("name", ENGINES)
def test_what_an_engine_cannot_do_is_no_option_of_its_command(name):
    """Where an extra only adds a comment, the commands themselves stay as they are."""
    plain = [line for line in text_for(name, Extras()).splitlines() if not line.startswith("#")]
    for extras in ASKED:
        lines = text_for(name, extras).splitlines()
        commands = [line for line in lines if not line.startswith("#")]
        new = [line for line in lines if line.startswith("#") and line not in text_for(name, Extras())]
        assert commands != plain or new


def test_every_engine_with_a_command_has_a_row():
    assert set(EXTRAS) == set(COMMANDS)


def test_vllm():
    (options,) = parsed(find("vllm"), text_for("vllm", EVERYTHING))
    assert json.loads(str(options["speculative_config"])) == {
        "model": "meta-llama/Llama-3.2-1B",
        "num_speculative_tokens": 3,
    }
    assert options["cpu_offload_gb"] == "10.00"
    assert float(str(options["kv_offloading_size"])) == pytest.approx(4 * 20e9 / 2**30, abs=0.01)  # over all four ranks
    assert (options["enable_lora"], options["max_loras"], options["max_lora_rank"]) == (True, "4", "32")
    assert (options["prefill_context_parallel_size"], options["decode_context_parallel_size"]) == ("2", "2")
    assert (options["enable_prefix_caching"], options["no_enable_prefix_caching"]) == (False, True)
    (heads,) = parsed(find("vllm"), text_for("vllm", Extras(spec_tokens=1, mtp=True)))
    assert json.loads(str(heads["speculative_config"])) == {"method": "mtp", "num_speculative_tokens": 1}


@pytest.mark.parametrize(
    ("draft", "mtp", "algorithm"),
    [
        ("x/small", False, "STANDALONE"),
        ("x/EAGLE3-LLaMA3.1-8B", False, "EAGLE3"),
        ("x/EAGLE-LLaMA3-8B", False, "EAGLE"),
        ("", True, "NEXTN"),
    ],
)
def test_sglang_names_the_algorithm_and_counts_the_sampled_token(draft, mtp, algorithm):
    (options,) = parsed(find("sglang"), text_for("sglang", Extras(spec_tokens=3, draft_model=draft, mtp=mtp)))
    assert options["speculative_algorithm"] == algorithm
    assert options["speculative_draft_model_path"] == (draft or None)
    assert (options["speculative_num_steps"], options["speculative_num_draft_tokens"]) == ("3", "4")


def test_drafts_that_are_looked_up_need_no_model():
    extras = Extras(spec_tokens=4, draft_model="ngram")
    (vllm,) = parsed(find("vllm"), text_for("vllm", extras))
    assert json.loads(str(vllm["speculative_config"])) == {"method": "ngram", "num_speculative_tokens": 4}
    (sglang,) = parsed(find("sglang"), text_for("sglang", extras))
    assert (sglang["speculative_algorithm"], sglang["speculative_draft_model_path"]) == ("NGRAM", None)
    assert sglang["speculative_num_draft_tokens"] == "5"
    config = options_of(text_for("trtllm", extras))["speculative_config"]
    assert config == {"decoding_type": "NGram", "max_draft_len": 4}
    (llamacpp,) = parsed(find("llamacpp"), text_for("llamacpp", extras))
    assert (llamacpp["spec_type"], llamacpp["spec_ngram_simple_size_m"]) == ("ngram-simple", "4")
    assert llamacpp["spec_draft_hf"] is None


def test_sglang_says_where_a_draft_model_cannot_run():
    text = text_for("sglang", Extras(spec_tokens=3, draft_model="x/small"), tensor_parallel=1, attention_dp=4)
    assert "# SGLang does not run a draft model of its own beside data-parallel attention" in text


def test_trtllm_writes_extras_into_its_file():
    assert options_of(text_for("trtllm", EVERYTHING, kv_cache="fp8")) == {
        "speculative_config": {
            "decoding_type": "Draft_Target",
            "max_draft_len": 3,
            "speculative_model": "meta-llama/Llama-3.2-1B",
        },
        "disable_overlap_scheduler": True,
        "lora_config": {"max_loras": 4, "max_lora_rank": 24},
        "cp_config": {"cp_type": "HELIX", "tokens_per_block": 32},
        "kv_cache_config": {
            "dtype": "fp8",
            "tokens_per_block": 32,
            "host_cache_size": 20_000_000_000,
            "enable_block_reuse": False,
            "free_gpu_memory_fraction": 0.9,
        },
    }


def test_trtllm_keeps_a_strange_name_inside_its_file():
    names = ["a: b", "null", "x # y", "EOF", "'", '"', "{a}", "7", "ünïcode"]
    for name in names:
        found = options_of(text_for("trtllm", Extras(spec_tokens=1, draft_model=name)))
        assert found["speculative_config"]["speculative_model"] == name


def test_llamacpp_counts_layers_where_others_count_bytes():
    (options,) = parsed(find("llamacpp"), text_for("llamacpp", EVERYTHING))
    assert (options["n_gpu_layers"], options["n_cpu_moe"], options["threads"]) == ("40", "8", "16")
    assert (options["spec_type"], options["spec_draft_hf"]) == ("draft-simple", "meta-llama/Llama-3.2-1B")
    (file,) = parsed(find("llamacpp"), text_for("llamacpp", Extras(spec_tokens=3, draft_model="/m/draft.gguf")))
    assert (file["spec_draft_model"], file["spec_draft_n_max"]) == ("/m/draft.gguf", "3")
    assert "--n-cpu-moe" in text_for("llamacpp", Extras(cpu_offload_bytes=1e9)).splitlines()[-2]


def test_llamacpp_says_how_to_come_by_its_weights():
    text = command(
        find("llamacpp"), MODEL, Deployment(engine="", weights="q4_k_m", kv_cache="q8_0"), WORKLOAD, devices=1
    )
    assert "# to make it, with FOLDER the checkpoint" in text
    assert "llama-quantize BF16.gguf Llama-3.1-70B-Q4_K_M.gguf Q4_K_M" in text
    (options,) = parsed(find("llamacpp"), text)
    assert options["flash_attn"] == "on"
    given = command(find("llamacpp"), "bartowski/x-GGUF", Deployment(engine=""), WORKLOAD, devices=1)
    assert "#" not in given
    assert "--flash-attn" not in given


@pytest.mark.parametrize(
    "wrong",
    [
        {"spec_tokens": -1},
        {"cpu_offload_bytes": float("nan")},
        {"kv_offload_bytes": float("inf")},
        {"loras": 2},
        {"draft_model": "a\nrm -rf /"},
        {"draft_model": "--port"},
    ],
)
def test_extras_that_make_no_sense_are_refused(wrong):
    with pytest.raises(BadRequest):
        Extras(**wrong)


def test_nothing_is_asked_for_by_default():
    assert {field.name for field in fields(Extras)} > {"spec_tokens", "loras", "cpu_offload_bytes"}
    for name in ENGINES:
        assert text_for(name, Extras()) == command(find(name), MODEL, run_for(name), WORKLOAD, devices=8)

"""Engine descriptions: every file is complete, consistent with itself and with the devices and formats we know."""

from __future__ import annotations

import pytest

from gemmstone.catalog import device_files, engine_files
from gemmstone.core.deployment import Workload
from gemmstone.core.dtypes import BYTES
from gemmstone.core.errors import BadRequest
from gemmstone.predict.economics import Economics
from gemmstone.simulate.metrics import answer
from gemmstone.simulate.scenario import Scenario, system

ENGINES = engine_files.published()


def test_the_engines_of_the_contract_are_there():
    assert ENGINES == ["deepspeed", "generic", "llamacpp", "pytorch", "sglang", "transformers", "trtllm", "vllm"]


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("vLLM", "vllm"),
        ("TensorRT-LLM", "trtllm"),
        ("trt_llm", "trtllm"),
        ("llama.cpp", "llamacpp"),
        ("HF", "transformers"),
        ("deepspeed-mii", "deepspeed"),
    ],
)
def test_other_spellings_find_the_engine(spelling, name):
    assert engine_files.find(spelling).name == name


def test_an_unknown_engine_is_refused_with_a_suggestion():
    with pytest.raises(BadRequest, match=r"unknown engine 'vlllm'.*'vllm'"):
        engine_files.find("vlllm")


def test_no_two_engines_share_a_name():
    names = [name for engine in map(engine_files.find, ENGINES) for name in (engine.name, *engine.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ENGINES)
def test_a_file_agrees_with_its_name_and_explains_its_sources(name):
    engine = engine_files.find(name)
    assert engine.name == name
    assert engine.sources
    assert all(len(text) > 20 for text in engine.sources.values())
    assert 0 < engine.memory_fraction <= 1


@pytest.mark.parametrize("name", ENGINES)
def test_every_option_of_a_launch_is_one_the_parser_has(name):
    launch = engine_files.find(name).launch
    assert set(launch.options.values()) <= set(launch.flags) | set(launch.switches)
    assert not set(launch.flags) & set(launch.switches)


@pytest.mark.parametrize("name", ENGINES)
def test_formats_and_architectures_are_known_ones(name):
    engine = engine_files.find(name)
    shipped = {device_files.find(device).architecture for device in device_files.published()}
    for table in (engine.weights, engine.kv_cache):
        assert set(table) <= {*BYTES, "*"}
        for architecture in {a for architectures in table.values() for a in architectures} - {"*"}:
            assert any(s == architecture or s.startswith(architecture + "-") for s in shipped), architecture
    assert set(engine.launch.quantization) <= set(engine.weights)
    assert set(engine.launch.kv_cache) <= set(engine.kv_cache)


@pytest.mark.parametrize(
    ("engine", "device", "tokens"),
    [
        ("vllm", "h100-sxm", 8192),
        ("vllm", "b200-sxm", 16384),
        ("vllm", "a100-sxm-80gb", 2048),  # excepted by name in get_batch_defaults
        ("vllm", "l4", 2048),
        ("sglang", "h200-sxm", 8192),
        ("sglang", "b200-sxm", 16384),
        ("sglang", "a100-sxm-40gb", 4096),
        ("sglang", "t4", 2048),
        ("trtllm", "h100-sxm", 8192),
        ("deepspeed", "a100-sxm-80gb", 768),
    ],
)
def test_the_default_token_budget_follows_device_memory(engine, device, tokens):
    assert engine_files.find(engine).token_budget(device_files.find(device)) == tokens


@pytest.mark.parametrize(
    ("engine", "number_format", "architecture", "accepted"),
    [
        ("vllm", "fp8", "ampere", True),  # weight-only
        ("vllm", "fp8", "volta", False),
        ("trtllm", "fp8", "ampere", False),
        ("trtllm", "nvfp4", "hopper", False),
        ("trtllm", "nvfp4", "blackwell", True),
        ("trtllm", "nvfp4", "blackwell-workstation", True),
        ("trtllm", "bf16", "cdna3", False),
        ("llamacpp", "q4_k_m", "cdna3", True),
        ("vllm", "q4_k_m", "hopper", False),
        ("generic", "nvfp4", "volta", True),
    ],
)
def test_weights_are_accepted_by_format_and_architecture(engine, number_format, architecture, accepted):
    assert engine_files.find(engine).accepts_weights(number_format, architecture) is accepted


def test_a_kv_cache_is_accepted_by_format_and_architecture():
    assert engine_files.find("trtllm").accepts_kv_cache("fp8", "hopper")
    assert not engine_files.find("trtllm").accepts_kv_cache("fp8", "ampere")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('splits = "tensor"', 'splits = "tensors"', "'tensors' is none of"),
        ('kind = "mixed"', 'kind = "mixd"', "'mixd' is none of"),
        ('of = "total"', 'of = "all"', "'all' is none of"),
        ('source = "batch"', 'source = "hearsay"', "'hearsay'"),
        ("[launch.options]", "[launch.optins]", "optins"),
        ("[sources]", "[sources", "vllm2.toml"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_name(tmp_path, monkeypatch, old, new, complaint):
    text = (engine_files.DIRECTORY / "vllm.toml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "vllm2.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    monkeypatch.setattr(engine_files, "DIRECTORY", tmp_path)
    engine_files._read.cache_clear()
    with pytest.raises(BadRequest, match=complaint):
        engine_files.find("vllm2")
    engine_files._read.cache_clear()


@pytest.mark.parametrize(("model", "tokens_per_s"), [("qwen1.5-7b", 40.93), ("qwen1.5-14b", 32.22)])
def test_an_eager_engine_waits_for_its_host(model: str, tokens_per_s: float) -> None:
    """Qwen's README, BF16 on one A100 at batch 1: three times slower than the memory, since the host launches every kernel."""
    asked = Scenario(
        model=model,
        hardware="a100-sxm-80gb",
        engine="transformers",
        workload=Workload(input_tokens=16, output_tokens=2048, mode="batch", load=1),
    )
    found = answer(system(asked), asked.workload, Economics())
    assert 1.0 / float(found.metrics["tpot_s"].value[0]) == pytest.approx(tokens_per_s, rel=0.05)
    assert found.phases()["decode"][0].bound(0) == "host"

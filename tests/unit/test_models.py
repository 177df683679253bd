"""Names of models and config files: what they resolve to and how bad ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemmstone.catalog import model_files
from gemmstone.catalog.model_files import MAX_BYTES, find, published, short_names
from gemmstone.core.errors import BadRequest
from gemmstone.graph.families import build_model


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("meta-llama/Llama-3.1-70B", "llama-3.1-70b"),
        ("llama-3.1-70b", "llama-3.1-70b"),
        ("LLAMA-3.1-70B", "llama-3.1-70b"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("meta-llama/Meta-Llama-3-70B", "llama-3-70b"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.3-70b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", "qwen3-235b-a22b"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1"),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek-v2-lite"),
        ("moonshotai/Kimi-K2", "kimi-k2"),
        ("moonshotai/Kimi-K2-Instruct-0905", "kimi-k2"),
        ("MiniMaxAI/MiniMax-M2", "minimax-m2.5"),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b-v0.2"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama-3.1-70b"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi-3-mini-4k"),
        ("openai-community/gpt2", "gpt2"),
        ("facebook/opt-175b", "opt-175b"),
        ("GPT-3", "gpt-3"),
        ("gpt3", "gpt-3"),
    ],
)
def test_names_of_one_architecture_resolve_to_it(name: str, short: str) -> None:
    file = find(name)
    assert file.name == short
    assert file.weights == ""


@pytest.mark.parametrize(
    ("name", "short", "weights", "activations"),
    [
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b", "fp8", "fp8"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "llama-3.1-8b", "fp8", "fp8"),
        ("nvidia/DeepSeek-R1-NVFP4", "deepseek-r1", "nvfp4", "nvfp4"),
        ("nvidia/DeepSeek-V3.1-NVFP4", "deepseek-v3.1", "nvfp4", "nvfp4"),
        ("nvidia/Qwen3-32B-NVFP4", "qwen3-32b", "nvfp4", "nvfp4"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b", "fp8-block", "fp8"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "qwen3-30b-a3b", "fp8-block", "fp8"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b", "int4", ""),
        ("hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4", "llama-3.1-70b", "int4", ""),
        ("TheBloke/Mixtral-8x7B-v0.1-GPTQ", "mixtral-8x7b", "int4", ""),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "llama-3.1-8b", "int4", ""),
        ("Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4", "qwen2.5-72b", "int4", ""),
        ("Qwen/Qwen2.5-72B-Instruct-GPTQ-Int8", "qwen2.5-72b", "int8", ""),
        ("amd/Llama-3.1-70B-Instruct-FP8-KV", "llama-3.1-70b", "fp8", "fp8"),
        ("Qwen/Qwen3-Next-80B-A3B-Thinking-FP8", "qwen3-next-80b-a3b", "fp8-block", "fp8"),
        ("Qwen/Qwen3-VL-235B-A22B-Instruct-FP8", "qwen3-vl-235b-a22b", "fp8-block", "fp8"),
        ("Qwen/Qwen3.5-397B-A17B-FP8", "qwen3.5-397b-a17b", "fp8-block", "fp8"),
    ],
)
def test_a_weight_suffix_sets_the_quantisation(name: str, short: str, weights: str, activations: str) -> None:
    file = find(name)
    quantization = build_model(file).quantization
    assert (file.name, file.weights) == (short, weights)
    assert quantization is not None
    assert (quantization.weights, quantization.activations) == (weights, activations)


def test_a_bf16_suffix_undoes_the_fp8_of_a_checkpoint() -> None:
    original = build_model(find("deepseek-ai/DeepSeek-V3")).quantization
    assert original is not None
    assert original.weights == "fp8-block"
    file = find("unsloth/DeepSeek-V3-bf16")
    assert file.weights == "bf16"
    assert build_model(file).quantization is None


def test_nvidia_leaves_the_attention_of_deepseek_in_bf16_and_its_cache_in_fp8() -> None:
    quantization = build_model(find("nvidia/DeepSeek-R1-NVFP4")).quantization
    assert quantization is not None
    assert quantization.experts_only
    assert quantization.kv_cache == "fp8"


@pytest.mark.parametrize("file", list(published()), ids=lambda file: file.name)
def test_every_id_and_alias_leads_home(file: model_files.ModelFile) -> None:
    meta = json.loads((model_files.FOLDER / f"{file.name}.json").read_text())["gemmstone"]
    for name in [file.name, meta["id"], *meta["aliases"], *meta.get("variants", {})]:
        assert find(name).name == file.name, name


def test_a_shipped_name_reads_no_other_file(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = model_files.read_config
    monkeypatch.setattr(model_files, "read_config", lambda path: read.append(path.stem) or original(path))
    find("meta-llama/Llama-3.1-70B-Instruct")
    assert set(read) == {"llama-3.1-70b"}


def test_a_path_wins_and_a_folder_will_do(tmp_path: Path) -> None:
    config = dict(find("qwen3-8b").config, num_hidden_layers=2)
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name in (str(folder), str(folder / "config.json")):
        file = find(name)
        assert file.name == "my-model"
        assert build_model(file).num_layers == 2
    (tmp_path / "other.json").write_text(json.dumps(config))
    assert find(str(tmp_path / "other.json")).name == "other"


def test_modelopt_says_its_formats_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(find("llama-3.1-8b").config)))
    quantization = {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "group_size": 16,
        "exclude_modules": ["lm_head"],
    }
    (tmp_path / "hf_quant_config.json").write_text(
        json.dumps({"producer": {"name": "modelopt"}, "quantization": quantization})
    )
    found = build_model(find(str(tmp_path))).quantization
    assert found is not None
    assert (found.weights, found.kv_cache, found.experts_only) == ("nvfp4", "fp8", False)


def test_an_unknown_short_name_suggests_the_nearest() -> None:
    with pytest.raises(BadRequest, match=r"unknown model 'lama-3.1-70b'.*'llama-3.1-70b'"):
        find("lama-3.1-70b")


@pytest.mark.parametrize("name", ["", "   ", "a" * 400, "llama\x00", "a\nb"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="a model is a Hugging Face id"):
        find(name)


@pytest.mark.parametrize("name", ["./nothing/config.json", "/nothing", "nothing.json", "~/nothing.json"])
def test_a_missing_path_is_called_one(name: str) -> None:
    with pytest.raises(BadRequest, match="no file at"):
        find(name)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"has no config\.json"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"\x80\x04K\x01.", "not JSON"),  # a pickle
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not JSON"),
        (b"[1, 2]", "no JSON object"),
        (b'"llama"', "no JSON object"),
        (b" " * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BadRequest, match=reason) as caught:
        find(str(path))
    assert "\n" not in str(caught.value)


def test_short_names_are_sorted_and_fold_to_themselves() -> None:
    names = short_names()
    assert names == sorted(names)
    assert all(name == model_files.fold(name) for name in names)

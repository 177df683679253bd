"""Hostile and silly input: one clear line, the documented exit code, no traceback, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemmstone.catalog import model_files

ON = ("--on", "h100-sxm")
PREDICT = ("predict", "llama-3.1-8b", *ON, "--json")
LONG = "x" * 10_000
ESCAPES = "\x1b[31mred\x1b[0m\a\b\x00\x7f\u202e\u2028"
LLAMA = dict(model_files.find("llama-3.1-8b").config)

WHOLE_NUMBERS = ("--tp", "--pp", "--dp", "--ep", "--attention-dp", "--max-num-seqs", "--max-num-batched-tokens")
FRACTIONS = ("--gpu-memory-utilization", "--prefix-hit", "--length-spread", "--utilization", "--host-load")
AMOUNTS = (
    *("--input", "--output", "--concurrency", "--rate", "--batch", "--requests-per-slot"),
    *("--pue", "--price", "--embodied-kgco2", "--lifetime", "--battery"),
)
SILLY = (
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-1e308",
    "1e400",
    "9" * 400,
    "9" * 5_000,
    "0x10",
    "",
    " ",
    "1;2",
    "\u0663",
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever is refused leaves nothing behind."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("option", [*WHOLE_NUMBERS, *FRACTIONS, *AMOUNTS])
@pytest.mark.parametrize("number", SILLY, ids=lambda text: ascii(text[:12])[1:-1])
def test_numbers_no_one_can_mean(gemmstone, option, number):
    outcome = gemmstone(*PREDICT, f"{option}={number}")
    assert (outcome.code, outcome.out) == (2, ""), outcome
    assert outcome.problem
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("option", WHOLE_NUMBERS)
@pytest.mark.parametrize("number", ["0", "1.5", "100001000000"])
def test_whole_numbers_are_positive_and_whole(gemmstone, option, number):
    assert gemmstone(*PREDICT, option, number).code == 2


@pytest.mark.parametrize(
    ("option", "number"),
    [
        ("--gpu-memory-utilization", "0"),
        ("--gpu-memory-utilization", "1.01"),
        ("--prefix-hit", "1"),
        ("--length-spread", "1"),
        ("--input", "0.5"),
        ("--output", "0"),
        ("--input", "1e9"),
        ("--concurrency", "0"),
        ("--concurrency", "0.5"),
        ("--concurrency", "1e8"),
        ("--rate", "0"),
        ("--batch", "0"),
        ("--requests-per-slot", "0.5"),
        ("--pue", "0.99"),
        ("--pue", "11"),
        ("--price", "1e7"),
        ("--price", "3 EUR/h"),
        ("--utilization", "0"),
        ("--utilization", "1.1"),
        ("--host-load", "2"),
        ("--lifetime", "5 parsec"),
        ("--battery", "60 kg"),
    ],
)
def test_numbers_out_of_range(gemmstone, option, number):
    outcome = gemmstone(*PREDICT, option, number)
    assert (outcome.code, outcome.out) == (2, "")
    assert option.strip("-").split("-")[0] in outcome.problem.lower() or number in outcome.problem


NAMES = {
    "model": ("predict", "{}", *ON),
    "device": ("predict", "gpt2", "--on", "{}"),
    "count and device": ("predict", "gpt2", "--on", "8x{}"),
    "engine": (*PREDICT, "--engine", "{}"),
    "weights": (*PREDICT, "--weights", "{}"),
    "activations": (*PREDICT, "--activations", "{}"),
    "cache": (*PREDICT, "--kv", "{}"),
    "region": (*PREDICT, "--region", "{}"),
    "scope": (*PREDICT, "--energy-scope", "{}"),
    "profile": (*PREDICT, "--carbon-profile", "{}"),
    "hours": (*PREDICT, "--carbon-profile", "none.csv", "--hours", "{}"),
    "embodied": (*PREDICT, "--lifetime", "5y", "--embodied-kgco2", "{}"),
    "fidelity": (*PREDICT, "--fidelity", "{}"),
    "price": (*PREDICT, "--price", "{}"),
    "field": (*PREDICT, "--set", "{}=1"),
    "change": (*PREDICT, "--set", "memory.bandwidth={}"),
    "edit": (*PREDICT, "--set", "{}"),
    "cases": ("predict", "--cases", "{}"),
    "number": (*PREDICT, "--tp", "{}"),
    "target": ("plan", "gpt2", *ON, "--slo", "{}"),
    "bound": ("plan", "gpt2", *ON, "--slo", "ttft={}"),
    "objective": ("plan", "gpt2", *ON, "--objective", "{}"),
    "several devices": ("plan", "gpt2", "--on", "h100-sxm,{}"),
    "catalog device": ("catalog", "devices", "{}"),
    "catalog model": ("catalog", "models", "{}"),
    "catalog engine": ("catalog", "engines", "{}"),
    "verb": ("{}",),
    "option": (*PREDICT, "--{}"),
}


@pytest.mark.parametrize("arguments", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize(
    "text",
    [
        LONG,
        ESCAPES,
        "\u540d\u524d \U0001f4a5",
        "\udcff\udcfe",
        "'; rm -rf / #",
        "[bold]x[/bold]",
        "{0}%s",
        "../../../etc",
        "$(reboot)",
    ],
    ids=["long", "escapes", "unicode", "not unicode", "shell", "markup", "format", "path", "substitution"],
)
def test_names_no_one_has(gemmstone, arguments, text):
    outcome = gemmstone(*(argument.replace("{}", text) for argument in arguments))
    assert (outcome.code, outcome.out) == (2, ""), outcome
    assert outcome.problem
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("predict", "gpt2", "--on", "h1000"), "h100-sxm"),
        (("predict", "gpt2", "--on", "h100-smx"), "h100-sxm"),
        (("predict", "lama-3.1-8b", *ON), "llama-3.1-8b"),
        (("predict", "gpt2", "--on", "0xh100-sxm"), "devices"),
        (("predict", "gpt2", "--on", "-3xh100-sxm"), "devices"),
        (("predict", "gpt2", "--on", "1000000xh100-sxm"), "devices"),
        (("predict", "gpt2", "--on", f"{'9' * 200}xh100-sxm"), "devices"),
        (("predict", "gpt2", "--on", ""), "hardware"),
        (("predict", "", *ON), "model"),
        (("predict", "llama-3.1-8b", "--on", "7xh100-sxm", "--tp", "7"), "tp 7"),
        (("predict", "llama-3.1-8b", *ON, "--tp", "8"), "8 devices"),
        (("predict", "llama-3.1-8b", "--on", "8xh100-sxm", "--tp", "4"), "4 devices"),
        (("predict", "llama-3.1-8b", "--on", "64xh100-sxm", "--tp", "64"), "tp 64"),
        (("predict", "llama-3.1-8b", "--on", "64xh100-sxm", "--tp", "1", "--pp", "64"), "pp 64"),
        (("predict", "llama-3.1-8b", "--on", "2xh100-sxm", "--ep", "2"), "experts"),
        (("predict", "llama-3.1-8b", "--on", "2xh100-sxm", "--tp", "1", "--attention-dp", "2"), "attention-dp"),
        (("predict", "qwen3-30b-a3b", "--on", "4xh100-sxm", "--ep", "3"), "ep 3"),
        (("predict", "qwen3-30b-a3b", "--on", "6xh100-sxm", "--tp", "2", "--attention-dp", "3", "--ep", "6"), "ep 6"),
        ((*PREDICT, "--concurrency", "4", "--rate", "2"), "--concurrency, --rate"),
        ((*PREDICT, "--batch", "4", "--offline"), "--batch, --offline"),
        ((*PREDICT, "--region", "atlantis"), "region"),
        ((*PREDICT, "--weights", "fp7"), "fp7"),
        ((*PREDICT, "--set", "memory.bandwidth"), "FIELD=VALUE"),
        ((*PREDICT, "--set", "memory.bandwith=x2"), "memory.bandwidth"),
        ((*PREDICT, "--set", "memory.bandwidth="), "FIELD=VALUE"),
        ((*PREDICT, "--set", "memory.bandwidth=-100%"), "positive"),
        ((*PREDICT, "--set", "memory.bandwidth=80 GB"), "bytes_per_s"),
        ((*PREDICT, "--set", "compute.peak=1 TFLOP/s"), "factor"),
        ((*PREDICT, "--set", f"memory.bandwidth=x{'9' * 250}"), "memory.bandwidth"),
        ((*PREDICT, "--set", "__class__=1"), "unknown field"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else None,
)
def test_what_cannot_be_says_what_to_do(gemmstone, arguments, expected):
    outcome = gemmstone(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert expected in outcome.problem


CONFIGS: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{'model_type': 'llama'}",
    "binary": bytes(range(256)),
    "a list": b"[1, 2]",
    "a number": b"1e999",
    "alien": b'{"model_type": "toaster", "architectures": ["ToasterForBread"], "slots": 2}',
    "nothing": b"{}",
    "nested": b"[" * 200_000 + b"]" * 200_000,
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "huge": b'{"x": "' + b"y" * 2_000_000 + b'"}',
    "no layers": json.dumps({**LLAMA, "num_hidden_layers": 0}).encode(),
    "endless layers": json.dumps({**LLAMA, "num_hidden_layers": 10**12}).encode(),
    "negative width": json.dumps({**LLAMA, "hidden_size": -4096}).encode(),
    "text for a width": json.dumps({**LLAMA, "hidden_size": "wide"}).encode(),
    "not a number": json.dumps({**LLAMA, "hidden_size": float("nan")}).encode(),
    "infinite": json.dumps({**LLAMA, "intermediate_size": float("inf")}).encode(),
    "true for a number": json.dumps({**LLAMA, "num_attention_heads": True}).encode(),
    "no heads": json.dumps({**LLAMA, "num_attention_heads": 0}).encode(),
    "heads that do not group": json.dumps({**LLAMA, "num_key_value_heads": 5}).encode(),
    "too many digits": json.dumps({**LLAMA, "vocab_size": 0})
    .replace('"vocab_size": 0', f'"vocab_size": {"9" * 5000}')
    .encode(),
    "huge width": json.dumps({**LLAMA, "hidden_size": 10**300}).encode(),
    "architectures as text": json.dumps({**LLAMA, "architectures": "../../x", "model_type": None}).encode(),
    "quantisation as a list": json.dumps({**LLAMA, "quantization_config": [1]}).encode(),
    "unknown quantisation": json.dumps({**LLAMA, "quantization_config": {"quant_method": "\x1b[2J"}}).encode(),
}


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("verb", ["predict", "plan", "catalog models"])
def test_a_config_that_is_none(gemmstone, tmp_path: Path, verb, content):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    outcome = gemmstone(*verb.split(), str(file), *(() if verb.startswith("catalog") else ON))
    assert (outcome.code, outcome.out) == (2, ""), outcome
    assert outcome.problem
    assert list(tmp_path.iterdir()) == [file]


def test_a_good_config_is_read(gemmstone, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    by_folder = gemmstone("predict", str(tmp_path), *ON, "--json").document
    assert by_folder["metrics"] == gemmstone(*PREDICT).document["metrics"]


def test_a_name_from_a_file_cannot_act_on_the_terminal(gemmstone, tmp_path: Path, monkeypatch):
    folder = tmp_path / "a\x1b[31m\x07[bold]b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**LLAMA, "gemmstone": {"id": "x\x1b[2Jy"}}))
    monkeypatch.chdir(folder)
    for arguments in (("predict", ".", *ON), ("plan", ".", *ON), ("catalog", "models", "./config.json")):
        outcome = gemmstone(*arguments)
        assert outcome.code == 0, outcome.err
        assert all(character.isprintable() or character == "\n" for character in outcome.out)
    assert "[bold]" in gemmstone("predict", ".", *ON).out, "and it is text, not markup"


class TestPlaces:
    @pytest.mark.parametrize(
        "path", ["missing/config.json", "missing.json", "./missing", "/", "~/no-such-folder-at-all"]
    )
    def test_model_at_a_path_that_is_no_model(self, gemmstone, path):
        outcome = gemmstone("predict", path, *ON)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.problem

    @pytest.mark.parametrize("path", ["missing.toml", ".toml", "folder.toml", "broken.toml", "other.toml"])
    def test_hardware_at_a_path_that_is_no_hardware(self, gemmstone, path):
        Path("folder.toml").mkdir()
        Path("broken.toml").write_text("device = [")
        Path("other.toml").write_text('title = "a shopping list"')
        outcome = gemmstone("predict", "gpt2", "--on", path)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.problem

    @pytest.mark.parametrize("report", [".", "no/such/folder/plan.html", "x" * 5_000, "file/plan.html", "a\0b"])
    def test_report_that_cannot_be_written(self, gemmstone, tmp_path: Path, report):
        Path("file").write_text("")
        outcome = gemmstone("plan", "gpt2", *ON, "--report", report)
        assert (outcome.code, outcome.out) == (2, "")
        assert "write" in outcome.problem
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    @pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a disk that is full, as Linux has one")
    def test_report_on_a_full_disk(self, gemmstone):
        full = Path("full")
        full.symlink_to("/dev/full")  # a link, so that no mistake can hurt the real one
        outcome = gemmstone("plan", "gpt2", *ON, "--report", "full")
        assert (outcome.code, outcome.out) == (2, "")
        assert "write" in outcome.problem
        assert full.is_char_device()

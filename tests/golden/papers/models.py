"""Papers on models."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import test_deepseek_hardware as deepseek
import test_hardware_papers as hardware
import test_smallthinker as smallthinker

from gemmstone import api
from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment
from gemmstone.graph.memory import memory
from gemmstone.graph.parameters import count, state_bytes
from gemmstone.simulate.scenario import Hardware, load_cluster, load_model
from papers.row import Paper, Row, arxiv

SHORT = {"input_tokens": 32, "output_tokens": 8, "mode": "batch", "load": 1.0}  # nothing but weights counts


@cache
def config_of(name: str) -> str:
    """A file with one of CONFIGS, as a user has it."""
    folder = Path(tempfile.mkdtemp(prefix="papers-"))
    path = folder / f"{name}.json"
    path.write_text(json.dumps(CONFIGS[name]()), encoding="utf-8")
    return str(path)


def monocoder() -> Mapping[str, Any]:
    """PolyCoder's layers (2202.13169: GPT-NeoX of width 2,560, 32 heads), as many as make 0.9e9 parameters."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_attention_heads": 32,
        "num_hidden_layers": 8,
        "vocab_size": 50304,
        "max_position_embeddings": 2048,
        "torch_dtype": "bfloat16",
    }


CONFIGS = {"monocoder-0.9b": monocoder}


def rate(model: str, on: str, bandwidth: str, **asked: object) -> float:
    """Tokens/s of one sequence at the physical bound of a memory."""
    answer = hardware.predicted(model, on, edits=(f"memory.bandwidth={bandwidth}",), fidelity="limit", **SHORT, **asked)
    return 1 / hardware.value(answer, "tpot_s")


GEB = Paper(
    seed="geb-1.3b",
    title="GEB-1.3B: a light model for processors",
    link=f"{arxiv('2406.09900')}; config.json of huggingface.co/GEB-AGI/geb-1.3b",
    rows=(
        Row(
            setting="parameters",
            said="1.3B",
            here=lambda: count(load_model("geb-1.3b")).total,
            form="{:.3f}B",
            scale=1e9,
            expected=1.3e9,
            within=0.04,
            why="two digits",
            remark="its file of 2.7 GB in bf16 says 1.35B",
        ),
        Row(
            setting="FLOP of the training, 550B tokens: 6 N D",
            said="4.29e21, derived",
            here=lambda: 6 * 1.3e9 * 550e9,
            form="{:.2f}e21",
            scale=1e21,
            expected=4.29e21,
            within=0.01,
            why="the bar",
        ),
        Row(
            setting="the same by the operations of the model, sequences of 4,096",
            said="4.29e21, derived",
            here=lambda: deepseek.training_flop("geb-1.3b", 4096) * 550e9,
            form="{:.2f}e21",
            scale=1e21,
            expected=4.29e21,
            within=0.10,
            why="6 N D counts the embedding, which is not multiplied, and leaves attention out",
            remark="attention counts (+16%), the embedding does not (-7%)",
        ),
        Row(
            setting="ceiling of decode in fp32 at 50 GB/s, 1.3e9 x 4 bytes a token",
            said="9.6 tokens/s, derived",
            here=lambda: 50e9 / (1.3e9 * dtypes.size("fp32")),
            form="{:.2f} tokens/s",
            expected=9.6,
            within=0.01,
            why="the bar",
        ),
        Row(
            setting="the same by predict, `--fidelity limit --set memory.bandwidth=50GB/s`",
            said="9.6 tokens/s, derived",
            here=lambda: rate("geb-1.3b", "epyc-7742", "50GB/s", weights="fp32"),
            form="{:.2f} tokens/s",
            expected=9.6,
            within=0.08,
            why="1.082e9 x 4 bytes of layers and 0.133e9 x 4 of the output layer are 4.86 GB, 6.5% less than 1.3e9 x 4",
            remark="a token reads one row of the embedding, not the table",
        ),
        Row(
            setting="memory that 12 tokens/s in fp32 need, as its model card reports of a CPU",
            said="12 tokens/s",
            here=lambda: 12 / rate("geb-1.3b", "epyc-7742", "50GB/s", weights="fp32") * 50e9,
            form="{:.0f} GB/s",
            scale=1e9,
            low=50e9,
            high=205e9,
            relation="possible",
            remark="the CPU is not named: two channels of DDR5-4800 have 76.8 GB/s",
        ),
    ),
)

STABLE_CODE = Paper(
    seed="stable-code",
    title="Stable Code: 3B for code",
    link=f"{arxiv('2404.01226')}; config.json of huggingface.co/stabilityai/stable-code-3b",
    rows=(
        Row(
            setting="ceiling of decode, 3e9 weights of 4 bits, 100 GB/s",
            said="67 tokens/s, derived",
            here=lambda: 100e9 / (3e9 * 4 / 8),
            form="{:.1f} tokens/s",
            expected=67.0,
            within=0.01,
            why="two digits",
        ),
        Row(
            setting="by predict, stable-code-3b in q4_0, `--fidelity limit --set memory.bandwidth=100GB/s`",
            said="67 tokens/s, derived",
            here=lambda: rate("stable-code-3b", "jetson-orin", "100GB/s", engine="llamacpp", weights="q4_0"),
            form="{:.1f} tokens/s",
            low=0.75 * 67.0,
            high=67.0,
            remark="2.80B parameters; 4.5 bits with scales, the output layer in 16",
        ),
    ),
    apart="The speeds that the report measured are not entered.",
)


def monocoder_rate(on: str) -> float:
    """Tokens/s of one sequence of MonoCoder's size on a processor as it is in the catalogue, at the bound."""
    return 1 / hardware.value(hardware.predicted(config_of("monocoder-0.9b"), on, fidelity="limit", **SHORT), "tpot_s")


MONOCODER = Paper(
    seed="monocoder",
    title="MonoCoder: a small model for HPC code",
    link=arxiv("2312.13322"),
    rows=(
        Row(
            setting="a GPT-NeoX of PolyCoder's width with 8 layers",
            said="0.9B",
            here=lambda: count(load_model(config_of("monocoder-0.9b"))).total,
            form="{:.3f}B",
            scale=1e9,
            expected=0.9e9,
            within=0.05,
            why="one digit",
        ),
        Row(
            setting="decode on an EPYC 7763, 205 GB/s, bf16, `--fidelity limit`",
            said="bandwidth / bytes = 114 tokens/s, derived",
            here=lambda: monocoder_rate("epyc-7763"),
            form="{:.0f} tokens/s",
            low=114.0,
            high=114.0 / (1 - 0.16),
            remark="a token reads no table of embeddings, 0.13 of its 0.89B",
        ),
    ),
    apart="Its quality (normalised perplexity, CodeBLEU) is not predicted. `calibrate.lint.common_perplexity` is the metric, tested "
    "on texts whose perplexity is known.",
)


def unpredicted_share(model: str) -> float:
    return smallthinker.active_inside(load_model(model))


SMALLTHINKER = Paper(
    seed="smallthinker",
    title="SmallThinker: mixtures of experts for local use",
    link=f"{arxiv('2507.20984')}: Q4_0, 4.5 bits a weight",
    rows=tuple(
        row
        for name, title, total, active, needed, room in (
            (smallthinker.LARGE, "21B-A3B", 21e9, 3e9, 33.8e9, 8e9),
            (smallthinker.SMALL, "4B-A0.6B", 4e9, 0.6e9, 6.8e9, 1e9),
        )
        for row in (
            Row(
                setting=f"{title}, parameters",
                said=f"{total / 1e9:g}B",
                here=lambda name=name: count(load_model(name)).total,
                form="{:.3f}B",
                scale=1e9,
                expected=total,
                within=0.05,
                why="the bar",
            ),
            Row(
                setting=f"{title}, active in the layers",
                said=f"{active / 1e9:g}B",
                here=lambda name=name: unpredicted_share(name),
                form="{:.3f}B",
                scale=1e9,
                expected=active,
                within=0.055,
                why="the bar, and one digit",
            ),
            Row(
                setting=f"{title}, bandwidth that 20 tokens/s need",
                said=f"{needed / 1e9:g} GB/s, derived",
                here=lambda name=name: 20 * unpredicted_share(name) * dtypes.size("q4_0"),
                form="{:.1f} GB/s",
                scale=1e9,
                expected=needed,
                within=0.06,
                why="derived from the rounded count, with the model's own here",
                remark="two channels of DDR5-4800 have 76.8 GB/s",
            ),
            Row(
                setting=f"{title}, weights beside the {room / 1e9:g} GB it is said to need",
                said=f"{room / 1e9:g} GB",
                here=lambda name=name: count(load_model(name)).total * dtypes.size("q4_0"),
                form="{:.2f} GB",
                scale=1e9,
                low=room,
                relation="does not fit",
                remark="experts have to stay outside, and predict says so",
            ),
        )
    ),
)


def held(model: str, weights: str = "bf16") -> Any:
    run = Deployment(engine="generic", weights=weights, attention_weights=weights)
    return memory(load_model(model), load_cluster(Hardware("a100-sxm-80gb", 1)).device, run)


def layer_bytes(model: str, weights: str) -> float:
    tree = next(part for part in held(model, weights).tree.parts if part.name == "weights")
    return float(next(part.bytes for part in tree.parts if part.name == "layers"))


MATMUL_FREE = Paper(
    seed="matmul-free",
    title="MatMul-free language models",
    link=arxiv("2406.02528"),
    rows=(
        *(
            Row(
                setting=f"parameters, {said}",
                said=said,
                here=lambda name=name: count(load_model(name)).total,
                form="{:.3f}B",
                scale=1e9,
                expected=nominal,
                within=0.05,
                why="the bar; two or three digits",
            )
            for name, said, nominal in (
                ("mmfreelm-370m", "370M", 370e6),
                ("mmfreelm-1.3b", "1.3B", 1.3e9),
                ("mmfreelm-2.7b", "2.7B", 2.7e9),
            )
        ),
        Row(
            setting="weights of the layers, packed in 2 bits",
            said="more than 10 times less memory",
            here=lambda: layer_bytes("mmfreelm-2.7b", "bf16") / layer_bytes("mmfreelm-2.7b", "ternary"),
            form="{:.2f} times",
            expected=10.0,
            within=0.05,
            flag="Two bits give 8 times.",
            remark="More than 10 need 1.58 bits a weight, or a cache that is not there.",
        ),
        Row(
            setting="the same at the entropy of three values",
            said="10.1 times, derived",
            here=lambda: 16 / math.log2(3),
            form="{:.2f} times",
            expected=10.1,
            within=0.001,
            why="three digits",
        ),
        Row(
            setting="state of a sequence, 1 and 1M tokens",
            said="the same",
            here=lambda: (
                float(held("mmfreelm-2.7b").sequence_bytes(1e6)) / float(held("mmfreelm-2.7b").sequence_bytes(1))
            ),
            form="{:.0f} times",
            expected=1.0,
            why="exact",
        ),
        Row(
            setting="bytes of that state, 2.7B",
            said="32 x 2,560 elements",
            here=lambda: state_bytes(load_model("mmfreelm-2.7b")),
            form="{:,.0f} bytes",
            expected=32 * 2560 * 2.0,
            why="exact",
        ),
    ),
    apart="61% less memory in training, and 13 W on an FPGA, are recorded and not predicted.",
)


def reasoning() -> float:
    """Decode time of 10,000 tokens over that of 1,000: Llama-3.1-405B in fp8 on 8 H200."""

    def decode_s(tokens: float) -> float:
        work = api.Workload(input_tokens=1000, output_tokens=tokens)
        choice = api.Choice(tensor_parallel=8, weights="fp8")
        answer = api.predict(
            api.Scenario(model="llama-3.1-405b", hardware="8xh200-sxm", engine="vllm", choice=choice, workload=work)
        )
        return hardware.value(answer, "e2e_s") - hardware.value(answer, "ttft_s")

    return decode_s(10_000) / decode_s(1000)


O1 = Paper(
    seed="o1-eval",
    title="Evaluation of OpenAI o1",
    link=arxiv("2409.18486"),
    rows=(
        Row(
            setting="reasoning ten times as long: Llama-3.1-405B in fp8 on 8 H200, 1,000 and 10,000 tokens",
            said="10 times the decode time, derived",
            here=reasoning,
            form="{:.3f} times",
            expected=10.0,
            within=0.01,
            why="the bar",
            remark="the cache grows (+0.7%), and the prompt yields one of the tokens (+0.1%)",
            fitted=True,
        ),
    ),
    apart="**Not predicted:** o1's size and hardware are not public, so that `gemmstone predict o1-preview` refuses it; its success in "
    "contests and exams (83.3%, 100%) is quality, which no part of this product predicts.",
)

PAPERS = (GEB, STABLE_CODE, MONOCODER, SMALLTHINKER, MATMUL_FREE, O1)

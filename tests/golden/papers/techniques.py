"""Papers on techniques: latent attention and its exchanges, speculative decoding, adapters, efficiency."""

from __future__ import annotations

import served
import test_deepseek_hardware as deepseek
import test_energonai as energonai
import test_lora as lora

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment, Step
from gemmstone.graph.memory import kv_bytes_per_token
from gemmstone.graph.parameters import count, mtp_parameters
from gemmstone.graph.techniques.speculative import Speculative, tokens_per_step
from gemmstone.simulate.scenario import load_model
from papers.caches import made
from papers.row import Paper, Row, arxiv

BF16 = Deployment(engine="generic")
DEEPSEEK = Paper(
    seed="deepseek-v3-hw",
    title="Insights into DeepSeek-V3",
    link=f"{arxiv('2505.09343')}: tables 1 and 2; section 2.3.2: 32 tokens a device and step, 9 copies of 7,000 values, fp8 out and "
    "bf16 back",
    rows=(
        *(
            Row(
                setting=f"cache of a token, {name}",
                said=f"{kv_bytes / 1e3:.3f} KB",
                here=lambda name=name: kv_bytes_per_token(load_model(name), BF16),
                form="{:.3f} KB",
                scale=1e3,
                expected=float(kv_bytes),
                why="exact",
            )
            for name, kv_bytes in deepseek.PRINTED
        ),
        Row(
            setting="Llama-3.1-405B over DeepSeek-V3",
            said="7.28 times",
            here=lambda: 516_096 / kv_bytes_per_token(load_model("deepseek-v3"), BF16),
            form="{:.3f} times",
            expected=7.28,
            within=0.005,
            flag="The printed bytes give 7.344.",
        ),
        *(
            Row(
                setting=f"training FLOP a token at 4K, {name}",
                said=f"{gflop:,} GFLOP",
                here=lambda name=name: deepseek.training_flop(name, 4096),
                form="{:,.1f} GFLOP",
                scale=1e9,
                expected=gflop * 1e9,
                within=0.03,
                why="the bar",
                remark="thrice the forward pass of the graph, causal attention",
            )
            for name, gflop in (("deepseek-v3", 250), ("deepseek-v2", 155), ("llama-3.1-405b", 2448))
        ),
        Row(
            setting="the same, qwen2.5-72b",
            said="394 GFLOP",
            here=lambda: deepseek.training_flop("qwen2.5-72b", 4096),
            form="{:,.1f} GFLOP",
            scale=1e9,
            expected=394e9,
            within=0.03,
            flag="Six times its multiplied parameters are already 429.",
        ),
        Row(
            setting="dispatch and combine of a layer over 50 GB/s",
            said="120.96 us",
            here=lambda: deepseek.exchange_s(50e9),
            form="{:.2f} us",
            scale=1e-6,
            expected=120.96e-6,
            within=1e-9,
            why="exact",
        ),
        Row(
            setting="a token at that bound, 61 layers, two micro-batches",
            said="14.76 ms",
            here=lambda: 2 * 61 * deepseek.exchange_s(50e9),
            form="{:.2f} ms",
            scale=1e-3,
            expected=14.76e-3,
            within=5e-4,
            why="four digits",
        ),
        Row(
            setting="the same over 900 GB/s",
            said="0.82 ms",
            here=lambda: 2 * 61 * deepseek.exchange_s(900e9),
            form="{:.2f} ms",
            scale=1e-3,
            expected=0.82e-3,
            within=0.006,
            why="two digits",
        ),
        Row(
            setting="parameters of the prediction module",
            said="11.5B",
            here=lambda: mtp_parameters(load_model("deepseek-v3")),
            form="{:.2f}B",
            scale=1e9,
            expected=11.5e9,
            within=0.015,
            why="three digits, cut; README_WEIGHTS.md of github.com/deepseek-ai/DeepSeek-V3",
            remark="printed in its repository, README_WEIGHTS.md",
        ),
        Row(
            setting="tokens a step, second token accepted in 80%",
            said="1.8 times",
            here=lambda: tokens_per_step(Speculative(tokens=1, accept=0.8)),
            form="{:.2f}",
            expected=1.8,
            within=1e-9,
            why="1 + a",
            remark="time gained is less, as verifying reads experts of its own",
        ),
    ),
)

LLAMA = "llama-2-7b"
DRAFTING = Speculative(tokens=5, accept=0.8, draft=LLAMA)


def drafting_times() -> tuple[float, float, float]:
    """Seconds of a step of one short sequence: Llama-2-70B, the 7B that drafts, and both together, at the bound."""
    step = Step(decode_seqs=1.0, decode_context=100.0)
    systems = (made("llama-2-70b", NODE), made(LLAMA, NODE), made("llama-2-70b", NODE, DRAFTING))
    plain_s, draft_s, together_s = (float(system_.timer.estimate(step).time_s[0]) for system_ in systems)
    return plain_s, draft_s, together_s


def drafting_gain() -> float:
    plain_s, _, together_s = drafting_times()
    return tokens_per_step(DRAFTING) * plain_s / together_s


def theorem() -> float:
    """(1 - a^(K+1)) / ((1 - a) (K c + 1)), c the time of the draft over that of the model."""
    plain_s, draft_s, _ = drafting_times()
    return (1 - 0.8**6) / ((1 - 0.8) * (5 * draft_s / plain_s + 1))


NODE = "8xa100-sxm-80gb"
SPECULATIVE = Paper(
    seed="speculative",
    title="Speculative decoding",
    link=f"{arxiv('2211.17192')}, theorem 3.8: five tokens drafted by Llama-2-7B for 70B, 80% accepted, one sequence on 8 A100",
    rows=(
        Row(
            setting="gain over decoding without a draft",
            said=f"{theorem():.2f} times, derived",
            here=drafting_gain,
            form="{:.2f} times",
            expected=theorem(),
            within=0.01,
            why="verifying six tokens costs a little more than one",
        ),
        Row(
            setting="tokens a step when served, drafts taken or not at random, 64 answers of 5,000 tokens",
            said=f"{tokens_per_step(DRAFTING):.3f}, derived",
            here=lambda: served.tokens_a_step(5, 0.8).mean,
            form="{:.3f}",
            expected=tokens_per_step(DRAFTING),
            within=0.01,
            why="four standard errors; the last step of an answer may give fewer",
            remark="(1 - a^(K + 1)) / (1 - a), equation 1",
        ),
    ),
)

PEFT = Paper(
    seed="peft-survey",
    title="Parameter-efficient fine-tuning, what serving meets of it",
    link=f"{arxiv('2403.14608')}; LoRA of rank 8 on the query and value projections of Llama-2-7B",
    rows=(
        Row(
            setting="parameters of an adapter",
            said="4,194,304, derived",
            here=lambda: lora.adapter_elements(rank=8, targets="q+v"),
            form="{:,.0f}",
            expected=4_194_304.0,
            why="exact",
        ),
        Row(
            setting="share of the model",
            said="0.062%, derived",
            here=lambda: lora.adapter_elements(rank=8, targets="q+v") / count(load_model(LLAMA)).total,
            form="{:.3%}",
            expected=0.00062,
            within=0.005,
            why="two digits",
        ),
    ),
    apart="That a merged adapter computes the same, to 1e-5, is a test in `tests/golden/test_lora.py`. Memory and FLOP of the "
    "training are not part of serving.",
)


def int4_weights() -> float:
    return dtypes.size("bf16") / dtypes.size("int4")


EFFICIENT_LLM = Paper(
    seed="efficientllm",
    title="EfficientLLM: six metrics",
    link=arxiv("2505.13840"),
    rows=(
        Row(
            setting="memory of int4 weights, groups of 128 with a 16-bit scale and a 4-bit zero",
            said="up to 3.9 times less",
            here=int4_weights,
            form="{:.2f} times",
            expected=3.9,
            within=0.05,
            why="3.76 with zeros in 16 bits, 4.0 without scales: the bar is 3.7 to 4.0",
        ),
        Row(
            setting="cache of a token, DeepSeek-V3, whatever its heads",
            said="61 x 576 elements, derived",
            here=lambda: kv_bytes_per_token(load_model("deepseek-v3"), BF16) / 2,
            form="{:,.0f} elements",
            expected=61.0 * 576,
            why="exact",
        ),
    ),
    apart="Its six metrics are in every answer of `predict` and `plan` under `efficiency`. Accuracy, RSLoRA against LoRA, and the "
    "memory of training mixtures are not predicted.",
)

ENERGONAI = Paper(
    seed="energonai",
    title="EnergonAI: packed batches, pipelines that do not block, memory of neighbours",
    link=f"{arxiv('2209.02341')}: the abstract; FasterTransformer, which it compares with, blocks in its transfers",
    rows=(
        Row(
            setting="FLOP of projections and feed-forward less, 16 prompts of 7 to 512 tokens packed",
            said="1 - sum(len) / (B max(len)) = 72.2%, derived",
            here=energonai.flop_saved,
            form="{:.1%}",
            expected=1 - sum(energonai.SKEWED) / (len(energonai.SKEWED) * max(energonai.SKEWED)),
            within=1e-12,
            why="exact",
        ),
        *(
            Row(
                setting=f"throughput of four stages, non-blocking over blocking, transfers {share:.0%} of a stage",
                said="10% better scaling",
                here=lambda share=share: energonai.gain(4, share / 2),
                form="{:.1%}",
                low=0.05 * (1 - 1e-9),
                high=0.15,
                remark=remark,
            )
            for share, remark in (
                (0.05, "receiving and sending together, half each; `simulate.schedules.pipeline`"),
                (0.10, ""),
            )
        ),
        Row(
            setting="the same, each send 10% of a stage",
            said="-",
            here=lambda: energonai.gain(4, 0.10),
            form="{:.1%}",
            expected=0.20,
            within=1e-6,
            why="a stage inside receives and sends",
        ),
        Row(
            setting="half of Llama-2-13B in a neighbour's memory, 8 prompts of 256 tokens on A100: time over that without",
            said="limited performance reduction",
            here=lambda: energonai.prompt_s("peer", 0.5) / energonai.prompt_s("peer", 0.0),
            form="{:.2f} times",
            low=1.0,
            high=1.01,
            remark="`--technique weight-offload:size_bytes=12.7GB,tier=peer`",
        ),
        Row(
            setting="the same in the host's memory, PCI Express 4.0",
            said="-",
            here=lambda: energonai.prompt_s("host", 0.5) / energonai.prompt_s("host", 0.0),
            form="{:.2f} times",
            low=2.0,
        ),
    ),
    apart="Its 37% less latency with tensor parallelism is a measurement of kernels against those of 2022: not predicted. Packed output "
    "equals padded output to 1e-6 in `tests/golden/test_energonai.py`.",
)

PAPERS = (DEEPSEEK, SPECULATIVE, PEFT, EFFICIENT_LLM, ENERGONAI)

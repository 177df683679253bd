"""Papers on techniques: caches in few bits, eviction, distributed caches, adapters, efficiency."""

from __future__ import annotations

import test_deepseek_hardware as deepseek
import test_kivi as kivi
import test_lora as lora

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment, Step
from gemmstone.graph import techniques
from gemmstone.graph.memory import kv_bytes_per_token
from gemmstone.graph.parameters import count, mtp_parameters
from gemmstone.graph.techniques.distributed_kv import DistributedKv
from gemmstone.graph.techniques.eviction import Eviction
from gemmstone.graph.techniques.kivi import Kivi, element_bytes
from gemmstone.graph.techniques.speculative import Speculative, tokens_per_step
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, load_model, system
from gemmstone.simulate.system import System
from papers.row import Paper, Row, arxiv

BF16 = Deployment(engine="generic")
CONTEXT = 131_072


def made(model: str, hardware: str, *extras: object, **split: int) -> System:
    choice = Choice(techniques=extras, **split)
    return system(Scenario(model=model, hardware=hardware, engine="vllm", choice=choice, fidelity="limit"))


def kivi_gain(batch: float) -> float:
    """Throughput of four times `batch` with KIVI over `batch` in 16 bits, at the physical bound."""
    plain, packed = made("llama-2-7b", "1xa100-sxm-80gb"), made("llama-2-7b", "1xa100-sxm-80gb", Kivi())
    plain_s = plain.timer.estimate(Step(decode_seqs=batch, decode_context=498.0)).time_s
    packed_s = packed.timer.estimate(Step(decode_seqs=4 * batch, decode_context=498.0)).time_s
    return 4 * float(plain_s[0]) / float(packed_s[0])


KIVI = Paper(
    seed="kivi",
    title="KIVI: keys and values in 2 bits",
    link=f"{arxiv('2402.02750')}: Llama-2-7B, groups of 32, 16-bit scale and zero, the last 128 tokens in 16 bits",
    rows=(
        Row(
            setting="bits of an element",
            said="3.0, derived",
            here=lambda: 8 * element_bytes(Kivi()),
            form="{:.1f}",
            expected=3.0,
            why="exact",
            remark="5.33 times less than 16",
        ),
        Row(
            setting="peak memory with the weights, 24 x 4,096 tokens",
            said="2.6 times less",
            here=lambda: kivi.peak_ratio(4096, 24),
            form="{:.2f} times",
            expected=2.6,
            within=0.05,
            why="two digits; the paper does not give lengths and batch",
        ),
        Row(
            setting="the same, 96 x 498 tokens, the authors' own test",
            said="2.6 times less",
            here=lambda: kivi.peak_ratio(498, 96),
            form="{:.2f} times",
            expected=2.6,
            within=0.05,
            flag="Not in that setting.",
            remark="The claim needs long sequences and many of them.",
        ),
        Row(
            setting="batch in the same room, 1,664 tokens",
            said="4 times",
            here=lambda: kivi.sequence_bytes(1664) / kivi.sequence_bytes(1664, Kivi()),
            form="{:.2f} times",
            expected=4.0,
            within=0.005,
            why="exact there; more beyond, less before",
        ),
        Row(
            setting="throughput at the bound, 16 for 4 sequences of 498 tokens, A100 80 GB",
            said="2.35 to 3.47 times",
            here=lambda: kivi_gain(4.0),
            form="{:.2f} times",
            low=3.47,
            high=16 / 3,
            relation="above",
            remark="the claim lies below what is left while the weights decide",
        ),
        Row(
            setting="the same, 384 for 96",
            said="2.35 to 3.47 times",
            here=lambda: kivi_gain(96.0),
            form="{:.2f} times",
            low=1.0,
            high=2.35,
            relation="below",
            remark="and above what is left once arithmetic decides",
        ),
    ),
    apart="How much accuracy two bits cost is not predicted.",
)


def cache_bytes(model: str) -> float:
    return CONTEXT * kv_bytes_per_token(load_model(model), BF16)


def holds(model: str, budget: int = 0) -> float:
    """Whether an RTX 4090 holds a sequence of 128K tokens, 1 or 0; weights in 16 bits."""
    extras = (Eviction(budget=budget),) if budget else ()
    return float(made(model, "rtx-4090", *extras).memory.holds(CONTEXT))


LOCRET = Paper(
    seed="locret",
    title="Locret: a budget of the cache",
    link=f"{arxiv('2410.01805')}: contexts of 128K tokens on an RTX 4090 with 24 GB",
    rows=tuple(
        row
        for model, name, full_gb, ratio, kept_gb in (
            ("llama-3.1-8b", "Llama-3.1-8B", 17.2, 8, 2.1),
            ("phi-3-mini-128k", "Phi-3-mini-128K", 51.5, 20, 2.6),
        )
        for row in (
            Row(
                setting=f"{name}, the whole cache",
                said=f"{full_gb} GB, derived",
                here=lambda model=model: cache_bytes(model),
                form="{:.2f} GB",
                scale=1e9,
                expected=full_gb * 1e9,
                within=0.005,
                why="three digits",
            ),
            Row(
                setting=f"{name}, at {ratio} times less",
                said=f"{kept_gb} GB, derived",
                here=lambda model=model, ratio=ratio: cache_bytes(model) / ratio,
                form="{:.2f} GB",
                scale=1e9,
                expected=kept_gb * 1e9,
                within=0.03,
                why="two digits",
            ),
            Row(
                setting=f"{name}, fits whole",
                said="no",
                here=lambda model=model: holds(model),
                boolean=True,
                low=0.0,
                high=0.0,
            ),
            Row(
                setting=f"{name}, fits at {ratio} times less",
                said="yes",
                here=lambda model=model, ratio=ratio: holds(model, CONTEXT // ratio),
                boolean=True,
                low=1.0,
                high=1.0,
            ),
        )
    ),
    apart="What is forgotten with the evicted tokens is not predicted.",
)


def moved_bytes() -> float:
    """Bytes that a query of Llama-13B sends and gets back, of a cache of a million tokens on two instances."""
    run = Deployment(engine="vllm", data_parallel=2, techniques=(DistributedKv(instances=2),))
    groups = techniques.built(load_model("llama-13b"), run, Step(decode_seqs=1.0, decode_context=1e6))
    [op] = [op for group in groups if group.name == "layers" for op in group.ops if op.name == "partial_outputs"]
    return float(op.wire_bytes)


def room(instances: int) -> float:
    """Whether 8 instances of 4 A100 hold 1.9M tokens of one request, 1 or 0."""
    extras = (DistributedKv(instances=instances),) if instances > 1 else ()
    return float(made("llama-13b", "32xa100-sxm-80gb", *extras, tensor_parallel=4, data_parallel=8).memory.holds(1.9e6))


INFINITE_LLM = Paper(
    seed="infinite-llm",
    title="Infinite-LLM: a cache over a cluster",
    link=f"{arxiv('2401.02669')}: Llama-13B on 32 A100 with 80 GB",
    rows=(
        Row(
            setting="bytes of a token",
            said="819,200, derived",
            here=lambda: kv_bytes_per_token(load_model("llama-13b"), BF16),
            form="{:,.0f}",
            expected=819_200.0,
            why="exact",
        ),
        Row(
            setting="1,900K tokens",
            said="reported; 1.56 TB of 2.56, derived",
            here=lambda: 1.9e6 * kv_bytes_per_token(load_model("llama-13b"), BF16),
            form="{:.2f} TB",
            scale=1e12,
            high=2.56e12,
        ),
        Row(setting="fit one instance of 4", said="no", here=lambda: room(1), boolean=True, low=0.0, high=0.0),
        Row(setting="fit 8 instances together", said="yes", here=lambda: room(8), boolean=True, low=1.0, high=1.0),
        Row(
            setting="bytes a query moves a layer, whatever the length of its cache",
            said="O(d), derived",
            here=moved_bytes,
            form="{:,.0f}",
            expected=40 * (4 * 128 + 8),
            why="40 heads: 128 elements there, 128 back, two sums in fp32",
            remark="half of the cache of 1M tokens is 10 GB a layer",
        ),
    ),
    apart="Its 1.03 to 2.4 times the throughput belong to traces that mix lengths: not predicted.",
)


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

PAPERS = (KIVI, LOCRET, INFINITE_LLM, DEEPSEEK, SPECULATIVE, PEFT, EFFICIENT_LLM)

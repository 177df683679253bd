"""Papers on caches: in few bits, within a budget, over a cluster."""

from __future__ import annotations

import test_kivi as kivi

from gemmstone.core.deployment import Deployment, Step
from gemmstone.graph import techniques
from gemmstone.graph.memory import kv_bytes_per_token
from gemmstone.graph.techniques.distributed_kv import DistributedKv
from gemmstone.graph.techniques.eviction import Eviction
from gemmstone.graph.techniques.kivi import Kivi, element_bytes
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

PAPERS = (KIVI, LOCRET, INFINITE_LLM)

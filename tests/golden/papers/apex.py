"""APEX, which searches parallel plans."""

from __future__ import annotations

import apex_plans

from gemmstone import api
from gemmstone.core.deployment import Deployment, Step
from gemmstone.graph.build import build
from gemmstone.simulate.scenario import load_model
from papers.row import Paper, Row, arxiv

GIB = 2.0**30
APEX_WORK = {"input_tokens": 1198.0, "output_tokens": 209.0}  # 2,266.7 and 336.75 tokens/s over 1.611 requests/s


def apex_answer(mode: str, load: float, **split: int) -> dict:
    """Llama-3-70B on 2 H100 with all but 1 GiB of their memory."""
    choice = api.Choice(gpu_memory_utilization=0.99, **split)
    work = api.Workload(**APEX_WORK, mode=mode, load=load)
    return api.predict(
        api.Scenario(model="llama-3-70b", hardware="2xh100-sxm", engine="vllm", choice=choice, workload=work)
    )


def apex_rate(mode: str, load: float, **split: int) -> float:
    return float(apex_answer(mode, load, **split)["metrics"]["output_tokens_per_s"]["value"])


def apex_bytes(attention_ranks: int) -> float:
    """Weights of a device with the feed-forward blocks split in two and attention in `attention_ranks`, without tables."""
    groups = build(load_model("llama-3-70b"), Deployment(engine="generic"), Step(decode_seqs=1.0))
    [layers] = [group for group in groups if group.name == "layers"]
    ranks = {"qkv_proj": attention_ranks, "o_proj": attention_ranks, "gate_up_proj": 2, "down_proj": 2}
    return sum(layers.repeats * float(op.weight_bytes) / ranks[op.name] for op in layers.ops if op.name in ranks)


APEX = Paper(
    seed="apex",
    title="APEX: a simulator that searches parallel plans",
    link=f"{arxiv('2411.17651')}; output of the README of github.com/microsoft/apex_plus: Llama-3-70B in bf16 on 2 H100, "
    "100 requests of 1,198 tokens in and 209 out on average",
    rows=(
        Row(
            setting="weights of a device, tensor parallel in 2",
            said="63.8 GB",
            here=lambda: apex_bytes(2),
            form="{:.1f} GiB",
            scale=GIB,
            expected=63.8 * GIB,
            within=0.03,
            why="the bar",
            remark="what it calls GB is GiB, of the layers alone: embedding and head are 2 GiB more",
        ),
        Row(
            setting="weights of a device, attention whole on each",
            said="75.0 GB",
            here=lambda: apex_bytes(1),
            form="{:.1f} GiB",
            scale=GIB,
            expected=75.0 * GIB,
            within=0.03,
            why="the bar",
            remark="`predict --attention-dp` refuses a model without experts",
        ),
        Row(
            setting="TP 2, one batch of the 14.4 requests that an iteration has, as engines of 2024 run it",
            said="336.75 tokens/s",
            here=lambda: apex_rate("batch", 14.4, tensor_parallel=2),
            form="{:.0f} tokens/s",
            expected=336.75,
            within=0.15,
            why="the bar",
            fitted=True,
        ),
        Row(
            setting="TP 2, 14.4 requests in flight, servers of 2025",
            said="336.75 tokens/s",
            here=lambda: apex_rate("concurrency", 14.4, tensor_parallel=2),
            form="{:.0f} tokens/s",
            expected=336.75,
            within=0.25,
            why="the bar of 15% is missed; that the 80% band holds the printed number is tested apart",
            remark="beyond the bar of 15%, within our 80% band. APEX adds up kernels of tables that are not published: its "
            "attention takes 11.9 ms an iteration (17.23 s in 1,453), its weights and cache 4.5 ms to read",
            fitted=True,
        ),
        Row(
            setting="PP 2, 5.6 requests in each of two microbatches",
            said="163.3 tokens/s",
            here=lambda: apex_rate("concurrency", 11.2, pipeline_parallel=2),
            form="{:.0f} tokens/s",
            expected=163.343,
            within=0.15,
            why="the bar",
            fitted=True,
        ),
        Row(
            setting="order: TP 2 over PP 2",
            said="2.06 times",
            here=lambda: (
                apex_rate("concurrency", 14.4, tensor_parallel=2) / apex_rate("concurrency", 11.2, pipeline_parallel=2)
            ),
            form="{:.2f} times",
            expected=336.752 / 163.343,
            within=0.15,
            why="the bar of its parts",
            fitted=True,
        ),
        *(
            Row(
                setting=f"{plan}, {flight} requests in flight, its 100 requests one by one, `simulate.serving`",
                said=f"{apex_plans.PRINTED[plan]:.5g} tokens/s",
                here=lambda plan=plan: apex_plans.rate(plan),
                form="{:.0f} tokens/s",
                expected=apex_plans.PRINTED[plan],
                within=0.15,
                why="the bar",
                fitted=True,
            )
            for plan, flight in (("TP 2", "14"), ("PP 2", "11"))
        ),
        Row(
            setting="order: TP 2 with 14 over attention whole on each of two devices with 15",
            said="1.38 times",
            here=lambda: apex_plans.rate("TP 2") / apex_plans.rate("attention twice"),
            form="{:.2f} times",
            low=1.0,
            remark="its second plan loses 20% of its time waiting, which is not in our step",
            fitted=True,
        ),
        Row(
            setting="order: that one over PP 2",
            said="1.49 times",
            here=lambda: apex_plans.rate("attention twice") / apex_plans.rate("PP 2"),
            form="{:.2f} times",
            low=1.0,
            fitted=True,
        ),
    ),
    apart="A search over 8 GPUs takes about one CPU second here (`tests/golden/test_papers.py` holds it below 60). Its 3.37 times "
    "over heuristic plans and 45% less energy belong to plans and traces that the README does not print.",
)

PAPERS = (APEX,)

"""Papers on weights and layers behind the device."""

from __future__ import annotations

import test_dovetail as dovetail
import test_superpipeline as window

from papers.row import Paper, Row, arxiv


def cut() -> float:
    plain = window.made(25e9)
    found = window.made(25e9, f"weight-offload:size_bytes={window.outside():.0f}")
    return (plain.memory.tree.bytes - found.memory.tree.bytes) / (window.LAYERS * window.LAYER_BYTES)


DOVETAIL = Paper(
    seed="dovetail",
    title="Dovetail: a draft on the GPU, the target on the processor",
    link=f"{arxiv('2412.18934')}: Llama-2-7B in 16 bits, HumanEval; the gain of 2.77 over the processor alone is its own",
    rows=(
        Row(
            setting="memory bandwidth of the host for the processor alone, 5.86 / 2.77 = 2.12 tokens/s",
            said="28 to 30 GB/s, derived",
            here=dovetail.bandwidth_of_the_host,
            form="{:.1f} GB/s",
            scale=1e9,
            low=28e9,
            high=30e9,
            remark="layers and head in 16 bits, and a cache of 300 tokens",
        ),
        Row(
            setting="share of accepted tokens that 2.77 times asks for, 3 drafted",
            said="below 0.9",
            here=lambda: dovetail.needed_acceptance(3),
            form="{:.2f}",
            low=0.5,
            high=0.9,
        ),
        Row(
            setting="the same, 7 drafted",
            said="below 0.9",
            here=lambda: dovetail.needed_acceptance(7),
            form="{:.2f}",
            low=0.5,
            high=0.9,
        ),
        Row(
            setting="memory of the GPU with a draft, embedding and head",
            said="3 GB",
            here=lambda: dovetail.speculative(5, 0.7, dovetail.LAYERS)[0].memory.tree.bytes,
            form="{:.1f} GB",
            scale=1e9,
            high=3e9,
        ),
        Row(
            setting="with 7 GB, at the acceptance that gives 5.86 tokens/s with 3 GB, 5 drafted",
            said="8 tokens/s",
            here=lambda: dovetail.with_memory(7e9, 5)[1],
            form="{:.2f} tokens/s",
            expected=8.0,
            within=0.15,
            why="ours is the physical limit, the paper's a measurement",
            remark="ours is the physical limit with eleven layers on the GPU",
        ),
        *(
            Row(
                setting=f"20,000 tokens round by round, t = g t_draft + t_verify, g = {tokens}, at the share that "
                "the formula asks for",
                said="5.86 tokens/s",
                here=lambda tokens=tokens: dovetail.simulated(tokens, dovetail.needed_acceptance(tokens)).tokens_per_s,
                form="{:.2f} tokens/s",
                expected=5.86,
                within=0.03,
                why="four standard errors of 20,000 tokens",
                remark="`simulate.schedules.speculation`",
            )
            for tokens in (3, 7)
        ),
        Row(
            setting="p-value of 40,000 x 3 tokens of a toy model against the target's own distribution, 3 drafted",
            said="lossless",
            here=lambda: dovetail.p_value(dovetail.drawn(3).tokens, dovetail.TARGET),
            form="{:.2f}",
            low=0.01,
            remark="chi-squared; greedy tokens are the same, token by token",
        ),
    ),
)

SUPERPIPELINE = Paper(
    seed="superpipeline",
    title="Superpipeline: a window of layers on the GPU",
    link=f"{arxiv('2410.08791')}: the serving part",
    rows=(
        Row(
            setting="memory of the layers less, a window of 40% of them",
            said="up to 60%",
            here=cut,
            form="{:.1%}",
            expected=0.6,
            within=1e-6,
            why="the window is chosen so",
            remark="the parts of two layers that travel are counted in the window",
        ),
    ),
    apart="The step against a schedule layer by layer over a throttled link, within 10%, is a test in "
    "`tests/golden/test_superpipeline.py`.",
)

PAPERS = (DOVETAIL, SUPERPIPELINE)

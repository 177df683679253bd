"""Papers on taking requests out and in."""

from __future__ import annotations

import test_fastswitch as fastswitch

from gemmstone.simulate import context_switch
from papers.row import Paper, Row, arxiv


def share(chunk_bytes: float) -> float:
    return context_switch.bandwidth_frac(chunk_bytes, fastswitch.CALL_S, fastswitch.PCIE_3_X16)


FASTSWITCH = Paper(
    seed="fastswitch",
    title="FastSwitch: context switches of fair servers",
    link=f"{arxiv('2411.18424')}: Llama-3-8B on an A10, priorities drawn anew every 25 steps, lengths of ShareGPT; a copy takes 10 us to start",
    rows=(
        Row(
            setting="bytes of a chunk: keys of a block of 16 tokens in a layer",
            said="32 KB, derived",
            here=lambda: float(fastswitch.CHUNK),
            form="{:.0f} KB",
            scale=1024,
            expected=32.0 * 1024,
            why="exact",
        ),
        Row(
            setting="share of PCI Express 3.0 x16 that they reach",
            said="10 to 25%, derived",
            here=lambda: share(fastswitch.CHUNK),
            form="{:.0%}",
            low=0.10,
            high=0.25,
        ),
        Row(
            setting="the same in groups of 1 MB",
            said="at least 85%, derived",
            here=lambda: share(2**20),
            form="{:.0%}",
            low=0.85,
            remark="up to 18.5 GB/s; 77% of PCI Express 4.0's 32 GB/s",
        ),
        *(
            Row(
                setting=f"{name}, {rate:g} requests/s: chunk by chunk over groups of 20 blocks beside the steps",
                said="1.4 to 11.2 times",
                here=lambda rate=rate, quantile=quantile, field=field: fastswitch.gain(rate, quantile, field),
                form="{:.1f} times",
                low=low,
                high=11.2,
                remark=remark,
                fitted=True,
            )
            for name, rate, quantile, field, low, remark in (
                ("P95 of TTFT", 0.6, 0.95, "ttft_s", 1.4, "`--policy rotating`; `simulate.context_switch`"),
                ("P95 of TTFT", 0.7, 0.95, "ttft_s", 1.4, ""),
                ("P99 of TTFT", 0.7, 0.99, "ttft_s", 1.4, ""),
                ("P99 of TTFT", 1.0, 0.99, "ttft_s", 1.4, "far beyond what the card sustains, all wait"),
                ("P99 of the time of a token", 0.7, 0.99, "tpot_s", 1.4, ""),
            )
        ),
        Row(
            setting="Jain's index of the pace of answers, 0.7 requests/s, chunk by chunk",
            said="-",
            here=lambda: fastswitch.evenness(fastswitch.LIKE_VLLM, 0.7),
            form="{:.2f}",
            low=0.0,
            high=0.85,
            fitted=True,
        ),
        Row(
            setting="the same in groups beside the steps",
            said="-",
            here=lambda: fastswitch.evenness(fastswitch.LIKE_FASTSWITCH, 0.7),
            form="{:.2f}",
            low=0.9,
            high=1.0,
            fitted=True,
        ),
    ),
    apart="Copies that the host keeps from one turn of a conversation to the next are not simulated as swaps: a prefix cache with a tier on the "
    "host does that.",
)

PAPERS = (FASTSWITCH,)

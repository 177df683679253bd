"""Papers on models on phones and boards."""

from __future__ import annotations

import test_hardware_papers as hardware

from gemmstone.calibrate.lint import bits_per_weight, derived_columns
from gemmstone.core import dtypes
from papers.row import Paper, Row, arxiv


def phone(
    model: str = "llama-3.2-3b", on: str = "snapdragon-8-elite", engine: str = "llamacpp", **asked: object
) -> float:
    answer = hardware.predicted(model, on, engine=engine, **{**hardware.PHONE_WORK, **asked})
    return hardware.value(answer, "e2e_s")


MOBILE = Paper(
    seed="mobile-measure",
    title="Are we there yet? LLM applications on mobile devices",
    link=f"{arxiv('2504.00002')}; here: 3B, 2,048 tokens in, 256 out, one request",
    rows=(
        *(
            Row(
                setting=f"an answer on a phone whose memory has {bandwidth}, 4 bits",
                said="over 30 s",
                here=lambda bandwidth=bandwidth: phone(weights="q4_k_m", edits=(f"memory.bandwidth={bandwidth}",)),
                form="{:.0f} s",
                low=30.0,
                fitted=True,
            )
            for bandwidth in ("30 GB/s", "60 GB/s")
        ),
        Row(
            setting="at the edge, Jetson AGX Orin, 4 bits",
            said="between",
            here=lambda: phone(on="jetson-orin", weights="q4_k_m"),
            form="{:.1f} s",
            low=0.0,
            high=30.0,
            fitted=True,
        ),
        Row(
            setting="in the cloud, H100",
            said="under 10 s",
            here=lambda: phone(on="h100-sxm", engine="vllm"),
            form="{:.1f} s",
            high=10.0,
            fitted=True,
            remark="the network's time comes on top",
        ),
    ),
    apart="7B in 16 bits is refused on all phones (`tests/golden/test_hardware_papers.py`). The abstract gives no lengths, so "
    "orders are held, not numbers.",
)

MELT_ROWS = hardware.TestMelt.rows()


def melt_bits(quantization: str) -> float:
    """Mean bits a weight of the Llama and Mistral files of a format."""
    found = [
        bits_per_weight(size * 1e9, parameters)
        for model, form, size, parameters, _ in MELT_ROWS
        if form == quantization and model.startswith(("Llama", "Mistral"))
    ]
    return sum(found) / len(found)


def melt_max_ram() -> float:
    """GB that the column adds to the size in every row, found by the lint."""
    [said] = derived_columns([{"size": size, "max_ram": ram} for _, _, size, _, ram in MELT_ROWS])
    return float(said.rpartition("+ ")[2])


MELT = Paper(
    seed="melt",
    title="MELT: language models on phones and boards",
    link=f"{arxiv('2403.12844')}; model_specs.csv of github.com/brave-experiments/MELT-public, 33 rows",
    rows=(
        *(
            Row(
                setting=f"bits a weight of {ours}",
                said=f"{melt_bits(theirs):.2f} in the files",
                here=lambda ours=ours: 8 * dtypes.size(ours),
                form="{:.2f}",
                expected=melt_bits(theirs),
                within=0.04,
                why="the bar",
            )
            for theirs, ours in (("q3_k", "q3_k_m"), ("q4_k", "q4_k_m"), ("q4_0", "q4_0"), ("None", "fp16"))
        ),
        Row(
            setting="`max_ram` less the size, every row that has one",
            said="measured memory",
            here=melt_max_ram,
            form="{:.2f} GB",
            low=2.5,
            high=2.5,
            remark="**The column was computed, not measured:** size + 2.5 GB.",
        ),
        Row(
            setting="bits a weight of TinyLlama's 16-bit file",
            said="4.4 GB for 1.1B",
            here=lambda: bits_per_weight(4.4e9, 1.1e9),
            form="{:.0f}",
            expected=16.0,
            within=0.04,
            flag="Stored in fp32.",
        ),
    ),
    apart="Gemma's files deviate by up to 6%: 256,000 words weigh more than the format says. Measured energy and temperature are "
    "not entered.",
)

PAPERS = (MOBILE, MELT)

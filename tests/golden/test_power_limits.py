"""What published work found when it limited the power of devices that serve models."""

from __future__ import annotations

import pytest

from gemmstone import api


def latencies(batch: float, cap: str | None) -> tuple[float, float]:
    """Seconds of a prompt and of a token of Llama-2 70B on eight H100."""
    work = api.Workload(input_tokens=1500, output_tokens=128, mode="batch", load=batch)
    edits = () if cap is None else (f"power.cap={cap}",)
    asked = api.Scenario(model="llama-2-70b", hardware="8xh100-sxm", engine="vllm", workload=work, edits=edits)
    metrics = api.predict(asked)["metrics"]
    return metrics["ttft_s"]["value"], metrics["tpot_s"]["value"]


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_half_the_power_slows_prompts_and_hardly_tokens(batch) -> None:
    """Splitwise (arXiv:2311.18677, figure 9 and insight VI): under a cap of half the TDP of an H100 prompts take much longer
    and tokens almost no longer. "Almost" is taken as a quarter of what prompts lose, and an eighth at most."""
    prompt_s, token_s = latencies(batch, None)
    capped_prompt_s, capped_token_s = latencies(batch, "350 W")
    lost_prompt, lost_token = capped_prompt_s / prompt_s - 1.0, capped_token_s / token_s - 1.0
    assert lost_prompt > 0.25
    assert 0.0 <= lost_token < min(0.25 * lost_prompt, 0.125)


def test_a_mild_cap_costs_tokens_nothing() -> None:
    """The same figure: down to about 70% of the TDP tokens do not slow down at all."""
    assert latencies(4, "500 W")[1] == pytest.approx(latencies(4, None)[1], rel=0.01)

"""One deployment: its speed with bands, its distance from the physical limit, and what takes the time of a decode step."""

from gemmstone import api

answer = api.predict(
    api.Scenario(
        model="meta-llama/Llama-3.1-70B",
        hardware="8xh100-sxm",
        engine="vllm",
        choice=api.Choice(weights="fp8"),
        workload=api.Workload(input_tokens=2048, output_tokens=256, mode="concurrency", load=64),
    )
)

for name in ("ttft_s", "tpot_s", "output_tokens_per_s", "usd_per_million_output_tokens"):
    metric, limit = answer["metrics"][name], answer["limit"][name]["value"]
    print(f"{name}: {metric['value']:.4g} ({metric['low']:.4g} to {metric['high']:.4g}), physical limit {limit:.4g}")


def leaves(node):
    """All terms of a tree that have no parts of their own."""
    return [leaf for part in node["parts"] for leaf in leaves(part)] or [node]


decode = next(step for step in answer["tree"]["parts"] if step["name"] == "decode step")
for leaf in sorted(leaves(decode), key=lambda leaf: -leaf["time_s"])[:3]:
    print(f"{leaf['name']}: {leaf['time_s'] / decode['time_s']:.0%} of a decode step, bound by {leaf['bound']}")

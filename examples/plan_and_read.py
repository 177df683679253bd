"""The best deployments under latency targets, what would make the best one faster, and the command that starts it."""

from gemmstone import api
from gemmstone.plan.question import Question

found = api.plan(
    Question(
        model="meta-llama/Llama-3.1-70B",
        hardware=("8xh100-sxm",),
        engines=("vllm", "sglang"),
        workload=api.Workload(input_tokens=2048, output_tokens=256),
        slo={"ttft": 2.0, "tpot": 0.05},  # seconds
        top=3,
    )
)

if found["best"] is None:
    raise SystemExit(found["fallback"]["message"])
for candidate in found["candidates"]:
    tokens = candidate["metrics"]["output_tokens_per_s"]["value"]
    print(f"{candidate['rank']}. {candidate['engine']} {candidate['layout']}: {tokens:.0f} output tokens/s")
for resource, change in found["sensitivity"].items():
    print(f"+10% {resource}: {change['output_tokens_per_s']:+.1%} output tokens/s")
print(found["launch"])

"""One model on several devices and loads: output tokens per second and cost, with the reason where there is no answer."""

from gemmstone import api
from gemmstone.core.errors import NoAnswer

print("hardware        load  TPOT ms  tokens/s  USD/M tokens")
for hardware in ("1xa100-sxm-80gb", "1xh100-sxm", "1xh200-sxm", "2xl4", "1xl4"):
    for load in (1, 16, 64):
        workload = api.Workload(input_tokens=1024, output_tokens=256, mode="concurrency", load=load)
        scenario = api.Scenario(model="Qwen/Qwen3-14B", hardware=hardware, engine="vllm", workload=workload)
        try:
            metrics = api.predict(scenario)["metrics"]
        except NoAnswer as error:
            print(f"{hardware:<16} {error}")
            break
        tpot_ms = 1e3 * metrics["tpot_s"]["value"]
        tokens = metrics["output_tokens_per_s"]["value"]
        usd = metrics["usd_per_million_output_tokens"]["value"]
        print(f"{hardware:<16} {load:>3} {tpot_ms:8.1f} {tokens:9.0f} {usd:13.2f}")

"""Measurements made elsewhere: what a server would take without contention, and whether two settings differ in power."""

import random

from gemmstone.calibrate.idealized import Sample, idealized
from gemmstone.compare.significance import difference

# Your own logs go here. These were made: 80 ms a prompt, 25 ms a token, up to twice as long for waiting.
random.seed(1)
requests = [
    Sample(input_tokens=512, output_tokens=tokens, seconds=(0.08 + 0.025 * tokens) * random.uniform(1.0, 2.0))
    for tokens in (1, 16, 64, 256)
    for _ in range(50)
]
found = idealized(requests)
print(f"a token takes {found.per_token_s * 1e3:.1f} ms, least squares say {found.average_per_token_s * 1e3:.1f} ms")
prompt_ms = found.seconds(512, 0) * 1e3
print(f"a prompt takes {prompt_ms:.0f} ms; contention made it all {found.contention_factor:.2f} times as long")

power = {"fp32": [281.0, 274, 290, 279, 285], "mixed": [270.0, 283, 276, 268, 279]}
print(difference(power, unit="W").verdict)

"""How fast serving is simulated: requests a CPU second, the first compilation, a production week, and peers beside it.

    python benchmarks/simulation.py [--week] [--peer NAME=COMMAND ...]

A peer's command simulates 10,000 requests of a dense model on one replica, with what it needs already made (vidur's
predictors trained, say); it runs between runs of the same size here. Without one the CPU seconds are those measured once on
two cores of the same kind: vidur 31, splitwise-sim 32 (10,000 requests of Llama-2-70B on A100s, predictors trained).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gemmstone.predict.deploy import Choice
from gemmstone.predict.money import Money
from gemmstone.simulate import workers
from gemmstone.simulate.capacity import sustained
from gemmstone.simulate.replica import Replica
from gemmstone.simulate.scenario import Scenario, made
from gemmstone.simulate.serving import Options, serve
from gemmstone.simulate.traffic.named import named

REPEATS = 3
COMMAND = Path(sys.executable).parent / "gemmstone"
TEN_THOUSAND = ["simulate", "llama-3.1-70b", "--on", "8xh100-sxm", "--traffic", "sharegpt-replay", "--rate", "4"]
PEERS_ONCE = {"vidur": 31.0, "splitwise-sim": 32.0}
# name -> traffic, requests, requests/s, share of the cache that there is, least requests a CPU second
KERNEL = {
    "chunked prefill, batches of 18": ("lmsys-chat", 400_000, 10.0, 1.0, 300_000),
    "and preemption, batches of 47": ("lmsys-chat", 400_000, 23.0, 0.011, 300_000),
    "Azure's conversations": ("azure-conversation", 400_000, 4.0, 1.0, 300_000),
    "prefix caching": ("mooncake-conversation", 200_000, 0.8, 1.0, 150_000),
    "prefix caching, more hits": ("mooncake-conversation", 200_000, 0.8, 4.0, 150_000),
}
COMPILE_S = 20.0
WEEK_REQUESTS, WEEK_S, WEEK_BYTES = 44_000_000, 15 * 60.0, 3e9
PEAK = 1.5  # of azure-week's mean rate: a sinusoid of 3 to 1
PEAK_LOAD = 0.7  # of the sustainable rate
TIGHT = "0.285"  # of the devices' memory, so that the cache is full at times


def replica() -> Replica:
    """Llama-3.1-70B on eight H100s."""
    system = made(Scenario(model="llama-3.1-70b", hardware="8xh100-sxm", engine="vllm"))
    economics = Money().economics(system.cluster.device)
    one = workers.replica(system, mean_tokens=1500, longest_tokens=32768, economics=economics)
    return replace(one, limits=replace(one.limits, max_num_seqs=512))


def per_cpu_s(one: Replica, traffic: str, requests: int, rate: float, share: float) -> tuple[float, int]:
    """Requests a CPU second of the best run, traffic and summary included, and how often one was put back."""
    limits = replace(one.limits, total_blocks=int(one.limits.total_blocks * share))
    best, run = 0.0, None
    for _ in range(REPEATS):
        before = time.process_time()
        run = serve(
            [replace(one, limits=limits)], named(traffic, requests=requests, rate_per_s=rate, seed=1), Options()
        )
        best = max(best, requests / (time.process_time() - before))
    return best, run.totals.preemptions if run else 0


def command_cost(command: Sequence[str], **environment: str) -> tuple[float, float]:
    """CPU and wall seconds of a command and its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False, env={**os.environ, **environment})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - began


def week() -> bool:
    """A week of 44 million requests on as many replicas as its daily peak needs at 70% of what they sustain."""
    mean_per_s = WEEK_REQUESTS / (7 * 86_400)
    most = sustained(
        [tight_replica()],
        lambda rate, count: named("azure-week:peak_to_trough=1", requests=count, rate_per_s=rate, seed=1),
        {},
        guess_per_s=8.0,
    )
    count = round(PEAK * mean_per_s / (PEAK_LOAD * most.rate_per_s))
    print(
        f"one replica sustains {most.rate_per_s:.2f} requests/s without end: {count} replicas at 70% of that at the peak"
    )
    with tempfile.TemporaryDirectory() as folder:
        records, answer = Path(folder) / "week.parquet", Path(folder) / "week.json"
        command = [
            *(str(COMMAND), "simulate", "llama-3.1-70b", "--on", "8xh100-sxm", "--replicas", str(count)),
            *("--traffic", "azure-week", "--requests", str(WEEK_REQUESTS), "--gpu-memory-utilization", TIGHT),
            *("--records", str(records), "--json"),
        ]
        began = time.monotonic()
        with answer.open("w") as file:
            subprocess.run(command, stdout=file, check=True)
        wall_s = time.monotonic() - began
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = json.loads(answer.read_text())
        size = records.stat().st_size
    metrics = found["metrics"]
    print(
        f"a week: {metrics['completed']:,} requests, {metrics['preemptions']:,} put back, stable {found['stable']}, "
        f"{wall_s:.0f} s (bar {WEEK_S:.0f}), {usage.ru_maxrss / 1e6:.2f} GB (bar {WEEK_BYTES / 1e9:g}), "
        f"records {size / 1e9:.2f} GB"
    )
    return wall_s <= WEEK_S and usage.ru_maxrss * 1024 <= WEEK_BYTES and metrics["preemptions"] > 0


def tight_replica() -> Replica:
    """A replica whose cache is as small as the week's."""
    choice = Choice(gpu_memory_utilization=float(TIGHT))
    system = made(Scenario(model="llama-3.1-70b", hardware="8xh100-sxm", engine="vllm", choice=choice))
    economics = Money().economics(system.cluster.device)
    return workers.replica(system, mean_tokens=1500, longest_tokens=32768, economics=economics)


def main() -> int:
    """Prints the table; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--week", action="store_true")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    asked = parser.parse_args()
    good, one = True, replica()
    for name, (traffic, requests, rate, share, bar) in KERNEL.items():
        speed, put_back = per_cpu_s(one, traffic, requests, rate, share)
        good &= speed >= bar
        print(f"{name:<32} {speed:9,.0f} requests a CPU second, {put_back:,} put back   bar {bar:,}")
    with tempfile.TemporaryDirectory() as folder:
        first = [str(COMMAND), *TEN_THOUSAND, "--requests", "10"]
        cpu, wall = command_cost(first, XDG_CACHE_HOME=folder)
    good &= cpu <= COMPILE_S
    print(f"{'first run, compiling':<32} {cpu:9.1f} CPU s, {wall:.1f} s   bar {COMPILE_S:g}")
    ours = min(command_cost([str(COMMAND), *TEN_THOUSAND, "--requests", "10000"])[0] for _ in range(REPEATS))
    print(f"{'10,000 requests, whole command':<32} {ours:9.2f} CPU s")
    peers = dict(PEERS_ONCE)
    for named_command in asked.peer:
        name, _, command = named_command.partition("=")
        peers[name] = command_cost(shlex.split(command))[0]
    for name, seconds in peers.items():
        print(f"{name:<32} {seconds:9.2f} CPU s, {seconds / ours:.0f} times ours")
    if asked.week:
        good &= week()
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())

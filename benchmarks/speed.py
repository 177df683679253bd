"""What whole commands cost in CPU seconds, start-up included, and what a user would pick instead costs for the same plan.

    python benchmarks/speed.py [CASES.csv]

Each command runs REPEATS times and the least counts: noise only adds. Where the package aiconfigurator is installed beside
this one, the same plan is asked of it in between, so that the ratio comes from the same minutes of the same machine.
"""

from __future__ import annotations

import csv
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

REPEATS = 5
PLAN = [
    "plan",
    "meta-llama/Llama-3.1-70B",
    "--on",
    "8xh100-sxm",
    "--input",
    "2048",
    "--output",
    "256",
    "--slo",
    "ttft=2s,tpot=50ms",
]
POOLS = [
    "plan",
    "deepseek-v3",
    "--on",
    "32xh200-sxm",
    "--input",
    "4000",
    "--output",
    "500",
    "--slo",
    "ttft=2s,tpot=50ms",
]
PREDICT = [
    "predict",
    "llama-3.1-70b",
    "--on",
    "8xh100-sxm",
    "--input",
    "2048",
    "--output",
    "256",
    "--concurrency",
    "64",
]
# command -> CPU seconds it has to stay under
BARS: dict[str, tuple[list[str], float]] = {
    "--help": (["--help"], 0.3),
    "predict": (PREDICT, 0.7),
    "plan": (PLAN, 1.5),
    "plan pools": (POOLS, 4.0),  # undivided and disaggregated
}
CASES_PER_S = 300.0
LEARNED = ["--fidelity", "learned"]
LEARNED_TIMES = 3.0  # what a prediction with learned corrections may cost, in times of a calibrated one
# the same plans as a user would ask the peer for them
PEERS = {
    "plan": "--model meta-llama/Meta-Llama-3.1-70B --total-gpus 8 --system h100_sxm --isl 2048 --osl 256 --ttft 2000 --tpot 50",
    "plan pools": "--model deepseek-ai/DeepSeek-V3 --total-gpus 32 --system h200_sxm --isl 4000 --osl 500 --ttft 2000 --tpot 50",
}


def cpu_s(command: Sequence[str]) -> float:
    """User and system seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.decode()[-300:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def least(command: Sequence[str], repeats: int = REPEATS) -> float:
    """The least CPU seconds of several runs."""
    return min(cpu_s(command) for _ in range(repeats))


def cases_per_s(gemmstone: str, source: Path, *more: str) -> float:
    """Cases a CPU second after start-up: the difference between a long file and a short one."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    header, body = rows[0], rows[1:]
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for name, part in (("short", body[:20]), ("long", body)):
            path = Path(folder) / f"{name}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([header, *part])
            times.append(least([gemmstone, "predict", "--cases", str(path), "--out", str(path) + ".out", *more], 2))
    return (len(body) - 20) / (times[1] - times[0])


def made_up_cases(path: Path, count: int = 600) -> None:
    """Cases over models, devices, lengths and loads that need no data from elsewhere."""
    models = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-32b", "mixtral-8x7b", "deepseek-v3")
    devices = ("h100-sxm", "h200-sxm", "b200-sxm", "a100-sxm-80gb", "mi300x")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "hardware", "num_devices", "engine", "input_tokens", "output_tokens", "load"])
        for i in range(count):
            lengths = (256 << (i % 6), 128 << (i % 4))
            writer.writerow(
                [models[i % 5], devices[(i // 5) % 5], 8, ("vllm", "sglang", "trtllm")[i % 3], *lengths, 1 << (i % 8)]
            )


def main(arguments: Sequence[str]) -> int:
    """Prints the table; exit code 1 when a bar is missed."""
    gemmstone = shutil.which("gemmstone") or str(Path(sys.executable).parent / "gemmstone")
    good = True
    measured = {}
    for name, (options, bar) in BARS.items():
        measured[name] = least([gemmstone, *options])
        good &= measured[name] <= bar
        print(f"{name:<10} {measured[name]:6.2f} CPU s   bar {bar} s")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(arguments[0]) if arguments else Path(folder) / "cases.csv"
        if not arguments:
            made_up_cases(source)
        rate, learned_rate = cases_per_s(gemmstone, source), cases_per_s(gemmstone, source, *LEARNED)
    good &= rate >= CASES_PER_S
    print(f"{'--cases':<10} {rate:6.0f} cases a CPU second   bar {CASES_PER_S:.0f}")
    for name, times in {
        "predict": least([gemmstone, *PREDICT, *LEARNED]) / measured["predict"],
        "plan": least([gemmstone, *PLAN, *LEARNED]) / measured["plan"],
        "--cases": rate / learned_rate,
    }.items():
        good &= times <= LEARNED_TIMES
        print(f"{name:<10} {times:6.2f} times the CPU s at fidelity learned   bar {LEARNED_TIMES:g}")
    peer = shutil.which("aiconfigurator")
    if peer:
        for name, options in PEERS.items():
            peer_s = least([peer, "cli", "default", *options.split()], 2)
            print(f"aiconfigurator, the same {name}: {peer_s:.2f} CPU s, {peer_s / measured[name]:.0f} times ours")
    else:
        print("aiconfigurator is not installed: no comparison")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

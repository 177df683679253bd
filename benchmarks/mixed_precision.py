"""Training in fp32 against bf16 autocast on this machine: time, power, energy and carbon of a step, and whether they differ.

python benchmarks/mixed_precision.py [--device cpu] [--meter NAME] [--rounds 12] [--seconds 3] [--region world] [--out FILE]

A transformer of 7.3 million weights is trained on random tokens in both formats in turn, fp32 bf16, then bf16 fp32, so that a drift of the machine
falls on both. Power is of the best meter that is here; without one it is modelled and says so, and then tells nothing of the
formats: a model of how busy the processor is knows no format. Differences are tested by Welch's t, analysis of variance and a
bootstrap; what is not significant is called so, with the runs that would show it and those that would show 9 W. Blocks in which others took
the processor are set aside before anything is tested. --out writes the blocks as CSV.
Needs PyTorch and SciPy; takes two minutes.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gemmstone.catalog import carbon
from gemmstone.compare import significance
from gemmstone.core.errors import BadRequest, GemmstoneError
from gemmstone.measure import conditions, meters
from gemmstone.measure.alternate import Block, alternated
from gemmstone.measure.environment import environment

LAYERS, WIDTH, HEADS, VOCABULARY = 2, 512, 8, 1000
BATCH, TOKENS = 8, 128
EFFECT_W = 9.0  # what the paper could not show (arXiv:2409.07853: 7 to 11 W less)
LEAST_CALM = 5  # blocks of a format
J_PER_KWH = 3.6e6
FORMATS = ("fp32", "bf16")
COLUMNS = (
    "round",
    "format",
    "steps",
    "step_s",
    "mean_w",
    "energy_j",
    "window_s",
    "meter",
    "source",
    "scope",
    "disturbed",
)


def trainer(device: str, dtype: str) -> Callable[[], float]:
    """One step of training in a format; it returns the loss, and with it waits for the device."""
    import torch
    from torch import nn

    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, device=device)
    model = nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH, device=device),
        nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False),
        nn.Linear(WIDTH, VOCABULARY, device=device),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    # the same batch again and again: it is learned by heart, so that the loss has to fall in both formats
    batch = torch.randint(0, VOCABULARY, (BATCH, TOKENS + 1), device=device)
    kind = device.partition(":")[0]

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=dtype == "bf16"):
            scores = model(batch[:, :-1])
            loss = nn.functional.cross_entropy(scores.reshape(-1, VOCABULARY).float(), batch[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def grams(joules: float, region: str) -> float:
    """CO2 of that much energy of a machine in a data centre of a region."""
    return joules / J_PER_KWH * carbon.intensity(region)[0] * carbon.pue(region)[0]


def table(blocks: Sequence[Block], region: str) -> None:
    """Means of both formats."""
    print(f"{'':6}{'blocks':>7}{'steps':>7}{'ms a step':>11}{'W':>8}{'J a step':>10}{'gCO2 of 1e6 steps':>19}")
    for name in FORMATS:
        mine = [block for block in blocks if block.name == name]
        row = f"{name:6}{len(mine):>7}{sum(b.steps for b in mine):>7}{mean([b.step_s for b in mine]) * 1e3:>11.2f}"
        metered = [block.power.mean_w for block in mine if block.power is not None]
        if metered:
            joules = mean([block.step_j for block in mine if block.step_j is not None])
            row += f"{mean(metered):>8.2f}{joules:>10.3f}{grams(joules * 1e6, region):>19,.0f}"
        print(row)


def trusted(blocks: Sequence[Block]) -> Sequence[Block]:
    """Blocks that nothing disturbed, where there are enough of each format; else all."""
    calm = [block for block in blocks if not block.disturbed]
    if min(sum(block.name == name for block in calm) for name in FORMATS) < LEAST_CALM:
        print("too few blocks were left alone: all of them are tested, disturbed as they are\n")
        return blocks
    print(f"{len(blocks) - len(calm)} of {len(blocks)} blocks were disturbed and are set aside\n")
    return calm


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return math.fsum(values) / len(values)


def verdicts(blocks: Sequence[Block]) -> None:
    """What the tests say of time, power and energy, and the runs that 9 W would need at this scatter."""
    measures: tuple[tuple[str, str, Callable[[Block], float | None]], ...] = (
        ("time of a step", "ms", lambda block: block.step_s * 1e3),
        ("power", "W", lambda block: None if block.power is None else block.power.mean_w),
        ("energy of a step", "J", lambda block: block.step_j),
    )
    modelled = any(block.power is not None and block.power.source == "modelled" for block in blocks)
    for plain, unit, value in measures:
        title = plain if unit == "ms" or not modelled else f"{plain}, modelled"
        pairs = [(block.name, value(block)) for block in blocks]
        groups = {name: [v for mine, v in pairs if mine == name and v is not None] for name in FORMATS}
        try:
            found = significance.difference(groups, unit)
            print(f"{title}: {found.verdict}")
            print(f"  analysis of variance: {significance.variance(groups).verdict}")
        except BadRequest as error:
            print(f"{title}: not tested, {error}")
            continue
        if unit == "W":
            scatter = math.sqrt(mean([deviation**2 for deviation in found.deviations]))
            runs = significance.needed(EFFECT_W, scatter)
            print(
                f"  {EFFECT_W:g} W at the scatter seen here ({scatter:.2g} W): {runs} runs of each show it, four times in five"
            )


def write(blocks: Sequence[Block], path: Path) -> None:
    """Blocks as CSV, a row each."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for b in blocks:
            metered: Sequence[Any] = ("", "", "", "", "", "")
            if b.power is not None:
                p = b.power
                metered = (f"{p.mean_w:.5g}", f"{p.energy_j:.6g}", f"{p.window_s:.6g}", p.meter, p.source, p.scope)
            rows.writerow((b.round, b.name, b.steps, f"{b.step_s:.6g}", *metered, b.disturbed))


def main() -> int:
    """Measures, prints, and fails where a format did not learn or a meter answered nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--meter")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--region", default="world")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    meter = meters.meter(asked.device, asked.meter)
    losses: dict[str, list[float]] = {name: [] for name in FORMATS}
    steps = {name: trainer(asked.device, name) for name in FORMATS}
    work = {name: lambda name=name: losses[name].append(steps[name]()) for name in FORMATS}
    with conditions.watching(asked.device) as watch:
        blocks = alternated(work, meter, rounds=asked.rounds, seconds=asked.seconds)
    where = environment()
    print(
        f"{where['hardware']['cpu']['name']}, {where['limits']['cores']} processors, PyTorch {where['software']['torch']}"
    )
    error = "" if meter.error_frac is None else f", within ±{meter.error_frac:.0%}"
    print(f"power: {meter.name}, {meter.source}, of the {meter.scope}{error}. {meter.note}")
    if meter.source == "modelled":
        print("  a model of how busy the processor is: it cannot tell one format's watts from another's")
    print(f"carbon: {carbon.intensity(asked.region)[0]:.0f} g/kWh, PUE {carbon.pue(asked.region)[0]}\n")
    tested = trusted(blocks)
    table(tested, asked.region)
    print()
    verdicts(tested)
    print("\nlosses: " + ", ".join(f"{name} {found[0]:.2f} to {found[-1]:.2f}" for name, found in losses.items()))
    bad = conditions.disturbed(watch.conditions)
    print(f"disturbed: {bad}" if bad else "nothing else ran")
    refused = {block.why for block in blocks if block.power is None}
    for why in sorted(refused):
        print(f"refused: {why}")
    if asked.out:
        write(blocks, asked.out)
    return int(bool(refused) or any(found[-1] >= found[0] for found in losses.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GemmstoneError as error:
        sys.exit(f"mixed_precision: {error}")

"""How far off devices are that were never measured: leaving each measured device, and each build of chips, out in turn.

python benchmarks/transfer.py TABLES [--points N] [--write]

TABLES holds the kernel tables in kernels/ and the training table beside it. Prints, for products: the median error of three
predictors (nearest measured shapes, the law over devices, trees on features of shape and device) and how much of the truth the
80% band of the law holds; how the error falls with 10, 30 and 100 measurements; devices of other tables; training steps.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gemmstone.calibrate import few_shot, gemm_tables, languini, layer_tables, tables, transfer
from gemmstone.calibrate.fit import Sample, group_ids
from gemmstone.calibrate.transfer import Set
from gemmstone.catalog import device_files, training_files
from gemmstone.core import dtypes
from gemmstone.core.calibration import Rates
from gemmstone.core.deployment import Array
from gemmstone.core.errors import GemmstoneError
from gemmstone.ops import matmul
from gemmstone.predict import borrowing, law
from gemmstone.predict.kernels import FORMS
from gemmstone.predict.law import Kernel, Law

FAMILY = "gemm"
BUILD_BAR, CARD_BAR, FEW_BAR = (
    0.15,
    0.12,
    0.06,
)  # median errors: build never seen, new card of a known one, 30 measurements
BAND = 1.2816  # standard deviations on either side that hold 80% of a normal
NEIGHBOURS = 8
COUNTS = (10, 30, 100)
# fp32 FLOP/s and bytes/s of NVIDIA's product pages, for the cards of DeepBench that the catalogue does not have.
OLD_CARDS = {
    "NV_TitanX": (6.6e12, 336.5e9),
    "NV_M40": (6.8e12, 288e9),
    "NV_TitanX_Pascal": (11.0e12, 480e9),
    "NV_1080Ti": (11.3e12, 484e9),
    "NV_TitanXp": (12.1e12, 547.7e9),
}
NO_MATRIX_UNITS = ("pascal", "maxwell")  # half precision that sums in fp32 runs at the rate of fp32


def error(log_ratios: Iterable[Array]) -> float:
    """Median |predicted / measured - 1| of log(predicted / measured)."""
    return float(np.median(np.abs(np.expm1(np.concatenate(list(log_ratios))))))


def features(one: Set) -> tuple[Array, Array]:
    """What a predictor without physics may know of a set's points, [points, features], and the seconds of a roofline."""
    device = device_files.find(one.kernel.device)
    m, n, k = (np.asarray(one.op.shape[name], dtype=float) for name in "mnk")
    known = law.features(device)
    compute_s = np.asarray(one.op.flop) / one.rates.flop_per_s
    memory_s = np.asarray(one.op.bytes) / one.rates.bytes_per_s
    launch_s = 3e-6 * known["cycle"]
    output_s = np.asarray(one.op.write_bytes) / one.rates.bytes_per_s
    tiles = np.ceil(m / 128) * np.ceil(n / 128) / one.rates.compute_units
    size = dtypes.size(few_shot.FORMATS[one.kernel.variant][0])
    shape = [m, n, k, compute_s, memory_s, compute_s / memory_s, tiles, np.maximum(compute_s, memory_s) / launch_s]
    shape += [k * size / known["unit_bytes"], output_s]
    fixed = [np.log(size), one.kernel.variant == "fp8-block", bool(one.kernel.kernel)]
    fixed += [one.kernel.engine == name for name in ("vllm", "sglang", "trtllm")]
    fixed += [np.log(known[name]) for name in ("clock_hz", "flop_per_j", "unit_bytes")]
    fixed += [law.BUILDS[law.build_of(device)].matrix == "group"]
    columns = [np.log(column) for column in shape] + [np.full(m.size, float(value)) for value in fixed]
    return np.stack(columns, axis=1), np.maximum(compute_s, memory_s) + launch_s


def nearest(seen: Sequence[Set], unseen: Sequence[Set]) -> list[Array]:
    """log(predicted / measured) by the share of the roofline that the nearest measured points reached, [points] a set."""
    known = [features(one) for one in seen]
    table = np.concatenate([columns for columns, _ in known])
    share = np.concatenate([np.log(one.seconds / roof) for one, (_, roof) in zip(seen, known, strict=True)])
    middle, spread = table.mean(axis=0), table.std(axis=0) + 1e-9
    weight = np.where(np.arange(table.shape[1]) < 10, 1.0, 2.0) / spread  # what says which kernel it is counts more
    table = (table - middle) * weight
    found = []
    for one in unseen:
        columns, roof = features(one)
        asked = (columns - middle) * weight
        apart = (asked**2).sum(1)[:, None] + (table**2).sum(1)[None, :] - 2 * asked @ table.T
        best = np.argpartition(apart, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        close = 1.0 / np.sqrt(np.maximum(np.take_along_axis(apart, best, axis=1), 1e-6))
        found.append((share[best] * close).sum(1) / close.sum(1) + np.log(roof / one.seconds))
    return found


def trees(seen: Sequence[Set], unseen: Sequence[Set]) -> list[Array]:
    """The same by randomised trees on the features."""
    from sklearn.ensemble import ExtraTreesRegressor  # an experiment's library: the product does not need it

    known = [features(one) for one in seen]
    share = np.concatenate([np.log(one.seconds / roof) for one, (_, roof) in zip(seen, known, strict=True)])
    model = ExtraTreesRegressor(60, min_samples_leaf=3, max_features=0.5, random_state=0)
    model.fit(np.concatenate([columns for columns, _ in known]), share)
    asked = [features(one) for one in unseen]
    return [
        model.predict(columns) + np.log(roof / one.seconds) for one, (columns, roof) in zip(unseen, asked, strict=True)
    ]


def by_law(made: Law, unseen: Sequence[Set]) -> tuple[list[Array], float]:
    """The same by the law, and the share of the truth inside its 80% band."""
    prior = law.prior(made, [one.kernel for one in unseen])
    found, inside = [], []
    for place, one in enumerate(unseen):
        ratio = np.log(transfer.predicted(one, FAMILY, prior.names, prior.mean[place]) / one.seconds)
        spread = np.sqrt(transfer.spread_of(prior, place, one) ** 2 + prior.noise**2)
        found.append(ratio)
        inside.append(np.abs(ratio) < BAND * spread)
    return found, float(np.mean(np.concatenate(inside)))


def by_format(unseen: Sequence[Set], ratios: Sequence[Array]) -> str:
    """Median errors by number format, in percent."""
    names = sorted({one.kernel.variant for one in unseen})
    parts = []
    for name in names:
        of = [ratio for one, ratio in zip(unseen, ratios, strict=True) if one.kernel.variant == name]
        parts.append(f"{name} {100 * error(of):.0f}")
    return ", ".join(parts)


def left_out(measured: Sequence[Set]) -> dict[str, tuple[set[str], float]]:
    """Which devices are left out together, under a name, and the bar: builds first, then cards whose build stays."""
    builds: dict[str, set[str]] = {}
    for one in measured:
        build = law.build_of(device_files.find(one.kernel.device))
        builds.setdefault(build, set()).add(one.kernel.device)
    found = {f"all {build}": (devices, BUILD_BAR) for build, devices in sorted(builds.items())}
    for devices in builds.values():
        if len(devices) > 1:
            found |= {device: ({device}, CARD_BAR) for device in sorted(devices)}
    return found


def products(measured: Sequence[Set]) -> tuple[dict[str, Law], bool]:
    """Prints the three predictors for everything left out; the laws without it, and whether all bars are met."""
    print("left out                   nearest   law  trees  in the 80% band   by format (law)")
    laws, good = {}, True
    for name, (devices, bar) in left_out(measured).items():
        seen = [one for one in measured if one.kernel.device not in devices]
        unseen = [one for one in measured if one.kernel.device in devices]
        laws[name] = transfer.fit_law(FAMILY, seen, gemm_tables.COEFFICIENTS)
        ratios, inside = by_law(laws[name], unseen)
        others = [error(nearest(seen, unseen)), error(trees(seen, unseen))]
        met = error(ratios) <= bar
        good &= met
        print(
            f"{name:26s} {others[0]:7.1%} {error(ratios):5.1%} {others[1]:6.1%}  {inside:10.0%}"
            f"        {by_format(unseen, ratios)}   {'' if met else f'MISSED: {bar:.0%}'}"
        )
    return laws, good


def few(measured: Sequence[Set], laws: Mapping[str, Law]) -> bool:
    """Prints how far the error falls with measurements of each kernel, chosen and random; whether 30 chosen meet the bar."""
    print(
        "\nleft out                  measurements of each kernel: chosen / random, on the shapes that were not measured"
    )
    good = True
    for name, made in laws.items():
        known = {kernel.device for kernel in made.kernels}
        unseen = [one for one in measured if one.kernel.device not in known]
        unseen = [one for one in unseen if one.kernel.device == unseen[0].kernel.device]
        parts = [f"0: {error(by_law(made, unseen)[0]):5.1%}"]
        for count in COUNTS:
            chosen, random = (error(after(made, one, count, how) for one in unseen) for how in ("chosen", "random"))
            parts.append(f"{count}: {chosen:5.1%} / {random:5.1%}")
            if count == 30:
                good &= chosen <= FEW_BAR
        print(f"{name:26s} {'   '.join(parts)}")
    return good


def after(made: Law, one: Set, count: int, how: str) -> Array:
    """log(predicted / measured) of the rest of a kernel's points once `count` of them were measured."""
    prior = law.prior(made, [one.kernel])
    count = min(count, one.seconds.size // 2)
    if how == "chosen":
        taken = np.array(sorted(point for _, point in few_shot.order(prior, [one], count)[0]))
    else:
        taken = np.random.default_rng(0).choice(one.seconds.size, count, replace=False)
    part = few_shot.thin(one, taken)
    logs, _ = few_shot.posterior(prior, [part])
    rest = np.setdiff1d(np.arange(one.seconds.size), taken)
    asked = few_shot.thin(one, rest)
    found: Array = few_shot.corrected(prior, [part], logs, asked) - np.log(asked.seconds)
    return found


def others(directory: Path) -> None:
    """Prints what the product's own borrowing makes of devices that only other tables have."""
    print("\nproducts of other tables, in bf16 or fp16: as borrowed before the law, and now")
    for sample in [*volta(directory), *deepbench(directory)]:
        device = device_files.find(sample.device)
        rates = tables.rates(device, sample.op.dtype)
        relative = borrowing.RELATIVES[device.architecture]
        slugs = tuple(dict.fromkeys((*relative.lenders, *borrowing.STRANGER.lenders)))
        errors = []
        for fits in (borrowing._lent(slugs), borrowing.lender(device).fits):
            fit = next(fit for fit in fits if (fit.family, fit.variant, fit.engine) == (FAMILY, "bf16", "vllm"))
            seconds = FORMS[FAMILY](sample.op, rates, fit.coefficients).time_s
            errors.append(error([np.log(seconds / sample.seconds)]))
        print(f"{sample.device:16s} {sample.kernel:12s} {sample.seconds.size:5d} {errors[0]:6.1%} {errors[1]:6.1%}")
    old_cards(directory)


def made(device: str, kernel: str, m: Array, n: Array, k: Array, seconds: Array) -> Sample:
    """A table of products as vLLM's in bf16."""
    op = matmul.gemm("gemm", m=m, n=n, k=k)
    return Sample(
        device=device, engine="vllm", variant="bf16", kernel=kernel, op=op, seconds=seconds, groups=group_ids(n, k)
    )


def volta(directory: Path) -> list[Sample]:
    """Products on V100 PCIe that take long enough for the host's 11 us a call not to count."""
    table = tables.read(directory / "apexplus_gemm_v100.parquet")
    m, n, k = (table[name].to_numpy().astype(float) for name in "mnk")
    seconds = table["time(us)"].to_numpy() * 1e-6
    kept = np.flatnonzero((seconds > 150e-6) & (seconds < 50e-3) & (np.minimum(n, k) >= 256))[::10]
    return [made("v100-pcie-16gb", "cublas", m[kept], n[kept], k[kept], seconds[kept])]


def deepbench(directory: Path) -> list[Sample]:
    """DeepBench's half-precision products on the cards that the catalogue has."""
    rows = _deepbench(directory)
    found = []
    for card, slug in (("NV_T4", "t4"), ("NV_V100", "v100-sxm-16gb")):
        mine = [row for row in rows if row["hardware"] == card and ("Mixed" in row["sheet"] or "FP16" in row["sheet"])]
        m, n, k, seconds = _numbers(mine)
        found.append(made(slug, "deepbench", m, n, k, seconds))
    return found


def _deepbench(directory: Path) -> list[dict[str, str]]:
    with (directory / "gemm_deepbench.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _numbers(rows: Sequence[Mapping[str, str]]) -> list[Array]:
    numbers = np.array([[float(row[name]) for name in ("m", "n", "k", "time_raw")] for row in rows]).T
    return [numbers[0], numbers[1], numbers[2], numbers[3] * 1e-3]


def old_cards(directory: Path) -> None:
    """Prints DeepBench's fp32 products on each of five cards by one set of coefficients of the other four."""
    rows = [row for row in _deepbench(directory) if "Mixed" not in row["sheet"] and row["hardware"] in OLD_CARDS]
    sets = []
    for card, (flop_per_s, bytes_per_s) in OLD_CARDS.items():
        m, n, k, seconds = _numbers([row for row in rows if row["hardware"] == card])
        op = matmul.gemm("gemm", m=m, n=n, k=k, weights="fp32", activations="fp32", output="fp32")
        kernel = Kernel("deepbench", "fp32", "", card)
        sets.append(Set(kernel, op, seconds, Rates(flop_per_s, bytes_per_s, 0.0, 0.0, 24.0)))
    free = {name: c.start for name, c in gemm_tables.COEFFICIENTS.items() if c.lower < c.upper}
    free["tm"] /= free["tk"]
    names, start = tuple(free), np.log(list(free.values()))
    wide = np.full(len(names), transfer.WIDE)
    for one in sets:
        rest = [other for other in sets if other is not one]
        lent = transfer.solve(FAMILY, rest, start, wide, names)
        own = transfer.solve(FAMILY, [one], start, wide, names)
        lent_error, own_error = (
            error([np.log(transfer.predicted(one, FAMILY, names, logs) / one.seconds)]) for logs in (lent, own)
        )
        print(
            f"{one.kernel.device:16s} fp32 {one.seconds.size:4d}  own coefficients {own_error:5.1%}  others' {lent_error:5.1%}"
        )


def training(path: Path) -> None:
    """Prints training steps of each device by the mean of the other devices' factors, with their own fit beside it."""
    steps, _ = languini.read(path)
    print("\ntraining steps: mean error of the device's own fit, of the nearest year's, of the mean of the others")
    slugs = sorted({step.device for step in steps})
    logs = {slug: np.log(languini.fit_time(languini.measured(steps, slug), slug)) + _wide(slug) for slug in slugs}
    for slug in slugs:
        rest = [other for other in slugs if other != slug]
        year = device_files.find(slug).year
        near = min(rest, key=lambda other: abs(device_files.find(other).year - year))
        found = []
        for at in (logs[slug], logs[near], np.mean([logs[other] for other in rest], axis=0)):
            host, compute, memory = np.exp(at - _wide(slug))
            fit = languini.with_time(training_files.blank(slug), (float(host), float(compute), float(memory)))
            found.append(languini.mape(languini.ratios(languini.measured(steps, slug), fit)))
        print(f"{slug:16s} {found[0]:6.1%} {found[1]:6.1%} {found[2]:6.1%}")


def _wide(slug: str) -> Array:
    """What makes a compute factor one on the rate at which half-precision products are summed in fp32."""
    device = device_files.find(slug)
    peak = device.peak_flop_per_s
    slower = device.architecture in NO_MATRIX_UNITS and "fp16" in peak
    return np.array([0.0, np.log(peak["fp32"] / peak["fp16"]) if slower else 0.0, 0.0])


def main(arguments: Sequence[str]) -> int:
    """Prints all tables; 0 where every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("--points", type=int, default=transfer.POINTS, help="of each kernel on each device")
    parser.add_argument("--write", action="store_true", help="the law over all devices, where predictions read it")
    asked = parser.parse_args(arguments)
    directory = asked.tables / "kernels" if (asked.tables / "kernels").is_dir() else asked.tables
    try:
        measured = transfer.sets([*gemm_tables.read_gemm(directory), *layer_tables.read(directory)], asked.points)
        if asked.write:
            names = ("aic_gemm__gemm.parquet", "aic_quantize__computescale.parquet", layer_tables.TABLE)
            inputs = {name: transfer.digest(directory / name) for name in names}
            transfer.save([transfer.fit_law(FAMILY, measured, gemm_tables.COEFFICIENTS)], inputs)
            return 0
        laws, good = products(measured)
        good &= few(measured, laws)
        others(directory)
        training(directory.parent / "training_languini_single_gpu.csv")
    except GemmstoneError as failed:
        print(f"error: {failed}", file=sys.stderr)
        return failed.exit_code
    print(f"\nbars {'met' if good else 'MISSED'}: builds 15%, cards 12%, with 30 measurements 6%")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Reading the tables of matrix products: gemm/gemm and mla_bmm/mla_bmm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import Coefficient, FitSpec, Sample, group_ids, take
from gemmstone.ops import matmul
from gemmstone.predict.kernels.gemm import gemm

# A quick call takes a few microseconds in every table measured with CUDA graphs (1.7 to 18 us over all devices, engines
# and formats); one whose quickest call takes longer than this was bound by the host that launches it.
EAGER_FLOOR_S = 30e-6
# A product with narrow weights starts at 8.2 us where it unpacks them as it goes (A100). One that starts later (SGLang's int8 on
# H100 at 18.4 us, seven times its bf16) unpacks them in passes of its own or waits for the host, and no engine serves with it.
WEIGHT_ONLY_FLOOR_S = 15e-6
MIN_SHAPES = 8  # different (n, k) that a fit needs
MIN_STATIC_SHARE = 0.3  # a difference smaller than this share of the whole is noise
MIN_SCALE_SHARE = 0.1  # a pass that takes less of the whole than this is not worth a fit of its own
WEIGHT_ONLY = ("w4a16", "w8a16")
HEAD_DIM, LATENT_DIM = 128, 512  # of the MLA models that the batched products were measured for

COEFFICIENTS = {
    "ec": Coefficient(0.75, 0.2, 1.0),
    "eb": Coefficient(0.80, 0.2, 1.0),
    "p": Coefficient(2.0, 1.0, 8.0),
    "cq": Coefficient(1.5, 0.01, 20.0),
    "tk": Coefficient(2e-10, 1e-12, 1e-8),
    "tm": Coefficient(2e-10, 1e-13, 1e-8),
    "mh": Coefficient(100.0, 4.0, 4000.0),
    "ks": Coefficient(8000.0, 500.0, 1e6),
    "ps": Coefficient(1.5, 1.0, 8.0),
    "co": Coefficient(0.3, 1e-3, 20.0),
    "t0": Coefficient(4e-6, 1e-7, 3e-5),
    "host_floor": Coefficient(0.0, 0.0, 0.0),
}
# The batched products of MLA have loops of 128 and 512 steps: nothing in them says when a loop would be split.
BATCHED_COEFFICIENTS = {**COEFFICIENTS, "ks": Coefficient(1e6, 1e6, 1e6)}
# A call bound by the host shows little of the device's own overhead, so that is kept to what the same block-scaled kernels
# show where other engines measured them with graphs (over four devices t0 3.9 to 6.2 us, tk 0.7 to 1.0 ns). With
# host_floor left out the fit then says what a graph of these calls would take.
EAGER_COEFFICIENTS = {
    **COEFFICIENTS,
    "t0": Coefficient(5e-6, 3.9e-6, 6.2e-6),
    "tk": Coefficient(8e-10, 6.6e-10, 1.01e-9),
    "host_floor": Coefficient(1e-4, EAGER_FLOOR_S / 2, 1e-3),
}


def read_gemm(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Every (device, engine, number format, kernel) of the GEMM table, in its newest version.

    Where the engine quantises activations with a scale that it computes on the fly, that extra pass is a table of its own.
    A checkpoint with stored activation scales skips it: the difference makes a second Sample, its kernel ending in
    " static", which is the one of the two that stays.
    """
    passes = _scale_passes(directory, devices)
    samples: list[Sample] = []
    for table in tables.newest(tables.load(directory, "gemm", "gemm", devices), ("gemm_dtype",)):
        for (dtype, source), rows in tables.parts(table.rows, ("gemm_dtype", "kernel_source")):
            if dtype not in tables.VARIANTS or rows.n_unique(["n", "k"]) < MIN_SHAPES:
                continue
            m, n, k, milliseconds = (rows[name].to_numpy().astype(float) for name in ("m", "n", "k", "latency"))
            variant, weights, activations = tables.VARIANTS[dtype]
            sample = Sample(
                device=table.device,
                engine=table.backend,
                variant=variant,
                kernel=_kernel_name(source),
                op=matmul.gemm("gemm", m=m, n=n, k=k, weights=weights, activations=activations),
                seconds=milliseconds * 1e-3,
                groups=group_ids(n, k),
                inputs=table.inputs,
            )
            if variant in WEIGHT_ONLY and float(sample.seconds.min()) > WEIGHT_ONLY_FLOOR_S:
                continue
            samples.append(_marked(sample))
            known = passes.get((table.device, table.backend))
            if dtype == "fp8" and known is not None:
                samples += _static(sample, known)
    return samples


def read_batched(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """The products that absorb MLA's up-projections: queries [tokens, heads, 128] x 512 and outputs 512 x 128."""
    samples: list[Sample] = []
    for table in tables.newest(tables.load(directory, "mla_bmm", "mla_bmm", devices), ("bmm_dtype",)):
        for (dtype,), rows in tables.parts(table.rows, ("bmm_dtype",)):
            variant, weights, _ = tables.VARIANTS[dtype]
            heads, tokens, milliseconds = (
                rows[name].to_numpy().astype(float) for name in ("num_heads", "num_tokens", "latency")
            )
            before = (rows["op_name"] == "mla_gen_pre").to_numpy()
            op = matmul.batched_gemm(
                "bmm",
                batch=heads,
                m=tokens,
                n=np.where(before, LATENT_DIM, HEAD_DIM),
                k=np.where(before, HEAD_DIM, LATENT_DIM),
                dtype=weights,
            )
            samples.append(
                _marked(
                    Sample(
                        device=table.device,
                        engine=table.backend,
                        variant=variant,
                        kernel="",
                        op=op,
                        seconds=milliseconds * 1e-3,
                        groups=group_ids(heads, before),
                        inputs=table.inputs,
                    )
                )
            )
    return samples


def _marked(sample: Sample) -> Sample:
    """`sample`, with bounds for a host floor and a note in its inputs when its calls were bound by the host."""
    if float(sample.seconds.min()) < EAGER_FLOOR_S:
        return sample
    return replace(sample, inputs={**sample.inputs, "eager": "1"}, coefficients=EAGER_COEFFICIENTS)


def _scale_passes(
    directory: Path, devices: Iterable[str] | None
) -> dict[tuple[str, str], dict[tuple[int, int], float]]:
    """(device, engine) -> (m, k) -> seconds that computing the scale of an [m, k] activation adds to a product."""
    found: dict[tuple[str, str], dict[tuple[int, int], float]] = {}
    for table in tables.newest(tables.load(directory, "quantize", "computescale", devices)):
        rows = table.rows.select("m", "k", "latency").iter_rows()
        passes = {(m, k): milliseconds * 1e-3 for m, k, milliseconds in rows}
        if max(passes.values(), default=0.0) > 0:
            found[table.device, table.backend] = passes
    return found


def _static(sample: Sample, passes: Mapping[tuple[int, int], float]) -> list[Sample]:
    """`sample` without the pass that computes the scale, at the points where that was measured too."""
    shape = zip(np.asarray(sample.op.shape["m"]).tolist(), np.asarray(sample.op.shape["k"]).tolist(), strict=True)
    scale_s = np.array([passes.get((int(m), int(k)), np.nan) for m, k in shape])
    seconds = sample.seconds - scale_s
    kept = np.flatnonzero(seconds > MIN_STATIC_SHARE * sample.seconds)  # NaN is not greater either
    if np.median(scale_s[kept] / sample.seconds[kept]) < MIN_SCALE_SHARE:
        return []
    if np.unique(sample.groups[kept]).size < MIN_SHAPES:
        return []
    return [
        replace(
            sample,
            kernel=f"{sample.kernel} static",
            op=take(sample.op, kept),
            seconds=seconds[kept],
            groups=sample.groups[kept],
            inputs={**sample.inputs, "minus": "quantize/computescale"},
        )
    ]


def _kernel_name(source: str) -> str:
    """A short name of a kernel: the last part of a path-like one, without trailing counters.

    >>> _kernel_name("trt_flow_/weight_only_quant_matmul_L257/PLUGIN_V2_WeightOnly_0"), _kernel_name("deepgemm")
    ('PLUGIN_V2_WeightOnly', 'deepgemm')
    """
    return re.sub(r"_\d+$", "", source.rsplit("/", 1)[-1])


FAMILIES = {
    "gemm": FitSpec(family="gemm", form=gemm, read=read_gemm, coefficients=COEFFICIENTS),
    "batched_gemm": FitSpec(family="batched_gemm", form=gemm, read=read_batched, coefficients=BATCHED_COEFFICIENTS),
}

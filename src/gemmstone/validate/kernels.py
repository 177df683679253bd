"""Single kernels: the time of one product of matrices or one collective, as measured and as priced; and steps of training.

A row has `hardware` and `op`; of a gemm m, n, k and dtype, of a collective ranks and message_bytes. Measured is time_s, or
flop_per_s where a source prints the rate. Collectives are NCCL's, which is what such tables time (Vidur through
torch.distributed, APEX+ through CuPy, both outside of graphs), not the all-reduces that engines bring along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from gemmstone.core import dtypes, units
from gemmstone.core.errors import BadRequest
from gemmstone.core.work import Op
from gemmstone.ops.collective import all_gather, all_reduce, all_to_all, reduce_scatter, send_recv
from gemmstone.ops.matmul import gemm
from gemmstone.predict.coefficients import SHARED
from gemmstone.predict.pricing import Pricing
from gemmstone.simulate.metrics import Z80
from gemmstone.simulate.scenario import Hardware, check_fidelity, load_cluster
from gemmstone.validate.training import OP, training_step

METRICS = ("time_s", "flop_per_s")
COLLECTIVES: dict[str, Callable[..., Op]] = {
    "all_reduce": all_reduce,
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "all_to_all": all_to_all,
    "send_recv": send_recv,
}
MOST = 1e12
Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A priced kernel: seconds and their 80% band, and its FLOP."""

    device: str
    dtype: str
    time_s: float
    error_frac: float
    flop: float = 0.0

    def metric(self, name: str) -> tuple[float, float, float]:
        """Value, low and high end of one of METRICS."""
        value = self.time_s if name == "time_s" else self.flop / self.time_s
        spread = float(np.exp(Z80 * self.error_frac))
        return value, value / spread, value * spread


def is_kernel(row: Row) -> bool:
    """Whether a row tells of a single kernel."""
    return bool(row.get("op", "").strip())


def timed(row: Row, fidelity: str = "calibrated") -> Timed:
    """The price of a row's kernel, alone on its device and without an engine around it."""
    check_fidelity(fidelity)
    name = row.get("op", "").strip()
    if name == OP:
        device, seconds, error = training_step(row, _count)
        return Timed(device=device, dtype="fp16", time_s=seconds, error_frac=error)
    dtype = dtypes.resolve(row.get("dtype", "").strip() or "bf16")
    if name == "gemm":
        m, n, k = (_count(row, column) for column in ("m", "n", "k"))
        output = "fp32" if dtype in ("fp32", "tf32") else "bf16"
        op = gemm(name, m=m, n=n, k=k, weights=dtype, activations=dtype, output=output)
        op = replace(op, shape={**op.shape, "quantize_bytes": 0.0})  # both factors came in that format
        ranks, engine = 1, "generic"
    elif name in COLLECTIVES:
        ranks, engine = int(_count(row, "ranks")), SHARED
        op = COLLECTIVES[name](name, message_bytes=_count(row, "message_bytes"), ranks=ranks)
    else:
        raise BadRequest(f"unknown op {name[:40]!r}: gemm, {', '.join(COLLECTIVES)}, {OP}")
    pricing = _pricing(row.get("hardware", ""), ranks, engine, fidelity)
    found = pricing.price(op)
    return Timed(
        device=pricing.cluster.device.slug,
        dtype=dtype,
        time_s=float(np.max(found.time_s)),
        error_frac=float(np.max(found.error_frac)),
        flop=float(np.max(op.flop)),
    )


@lru_cache(maxsize=256)
def _pricing(hardware: str, ranks: int, engine: str, fidelity: str) -> Pricing:
    return Pricing(cluster=load_cluster(Hardware(hardware, ranks)), engine=engine, fidelity=fidelity)


def _count(row: Row, column: str) -> float:
    text = row.get(column, "").strip()
    try:
        value = units.parse(text, "count")
    except BadRequest:
        value = 0.0
    if not 1 <= value <= MOST:
        raise BadRequest(f"column {column} must be a number of at least 1, not {text[:40]!r}")
    return value

"""What work costs that a device does not do itself: copies from the host's memory and drives, and work of its processor.

At fidelity `limit` bytes and FLOP divide by the rates that are known, as for the device:

    copy   t = bytes / min(link, host memory),   from a drive t = bytes / min(drive, link, host memory)
    work   t = max( FLOP / peak, bytes / memory bandwidth )

Otherwise each rate is multiplied by the share that others measured, none of them with the machine at hand:

- link: 25 of the 32 GB/s of PCIe 4.0 x16 from pinned memory (BaM, arXiv:2203.04910; 24.7 GB/s with weights of an expert in
  https://github.com/efeslab/fiddler/issues/7). MoE-Lens has 19.5 while the processor works beside (arXiv:2504.09345), which
  is what the error allows for.
- memory: 150 of the 204.8 GB/s of a Xeon 8380 (MoE-Lens).
- arithmetic: 28% of the peak, KTransformers' kernels, 3.98 times as fast as oneDNN's at 7% (SOSP 2025,
  doi:10.1145/3731569.3764843).

Where weights lie in the host's memory and fetching them for one product on the device is faster, that is what happens: with
many tokens, as llama.cpp does from 32 on (ggml/src/ggml-cuda/ggml-cuda.cu, offload_op).

Drives are taken to read large blocks at the rate that is given. What the processor does costs no energy of the device.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gemmstone.core import dtypes
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.estimate import Estimate
from gemmstone.core.hardware import Device, HostTier
from gemmstone.core.work import Op
from gemmstone.ops import offload
from gemmstone.predict.power import copy_energy_j

LINK_FRAC, MEMORY_FRAC, COMPUTE_FRAC = 25.0 / 32.0, 150.0 / 204.8, 0.07 * 3.98
LINK_ERROR = math.log(25.0 / 19.5)  # between an idle and a busy host
PROCESSOR_ERROR = 0.4  # judgement: two machines of one vendor stand for all
COPIES = ("host_read", "host_write", "storage_read")


def price(op: Op, device: Device, *, limit: bool) -> Estimate:
    """Seconds of an operation whose tier is not the device, zero where there is nothing to do.

    Raises BadRequest that names the field of --set where a rate is not known.
    """
    copies = op.kind in COPIES
    active = np.asarray(op.wire_bytes if copies else op.write_bytes, dtype=float) > 0
    one_s = _copy_s(op, device, limit=limit) if copies else _work_s(op, device, limit=limit)
    time_s = np.asarray(np.where(active, one_s, 0.0) * op.count, dtype=float)
    return Estimate(
        name=op.name,
        time_s=time_s,
        energy_j=copy_energy_j(op, device) * active if copies else np.zeros_like(time_s),
        flop=np.zeros_like(time_s),  # the device's alone, as are the bytes
        bytes=np.asarray(op.bytes, dtype=float) * op.count * active if copies else np.zeros_like(time_s),
        family=op.kind if copies else "processor",
        count=op.count,
        source="analytic" if limit else "assumed",
        error_frac=0.0 if limit else LINK_ERROR if copies else PROCESSOR_ERROR,
        limits={"host": np.where(active, one_s, 0.0)},
    )


def fetched(op: Op) -> Op:
    """The copy of an operation's weights to the device, those that it reads."""
    return offload.host_read("weights", moved_bytes=np.minimum(op.weight_bytes, op.read_bytes), count=op.count)


def faster(there: Estimate, copy: Estimate, here: Estimate) -> Estimate:
    """Work by the host's processor, or by the device once the weights are there: at each point what takes less."""
    stays = np.asarray(there.time_s <= copy.time_s + here.time_s)
    if stays.all():
        return there
    names = {*there.limits, *here.limits}
    zeros = np.zeros_like(there.time_s)
    limits = {name: np.where(stays, there.limits.get(name, zeros), here.limits.get(name, zeros)) for name in names}
    return replace(
        there,
        time_s=np.minimum(there.time_s, copy.time_s + here.time_s),
        energy_j=np.where(stays, there.energy_j, copy.energy_j + here.energy_j),
        flop=np.where(stays, there.flop, here.flop),
        bytes=np.where(stays, there.bytes, copy.bytes + here.bytes),
        error_frac=max(there.error_frac, copy.error_frac, here.error_frac),
        limits=limits | {"host": np.where(stays, there.limits["host"], copy.limits["host"])},
    )


def _copy_s(op: Op, device: Device, *, limit: bool) -> Array:
    tier = device.host_tier or HostTier()
    rates, latency_s = [], 0.0
    if device.host is not None:
        rates.append(device.host.bandwidth_bytes_per_s * (1.0 if limit else LINK_FRAC))
        latency_s = 0.0 if limit else device.host.latency_s
        if tier.memory_bandwidth_bytes_per_s:
            rates.append(tier.memory_bandwidth_bytes_per_s * (1.0 if limit else MEMORY_FRAC))
    elif op.kind != "storage_read":
        raise BadRequest(
            f"no link is known from {device.slug} to its host: give one with --set link.host.bandwidth=25GB/s"
        )
    if op.kind == "storage_read":
        if not tier.storage_bandwidth_bytes_per_s:
            raise BadRequest(
                f"how fast the drive of {device.slug} reads is not known: give it with --set storage.bandwidth=7GB/s"
            )
        rates.append(tier.storage_bandwidth_bytes_per_s)
    seconds: Array = np.asarray(op.wire_bytes, dtype=float) / min(rates) + latency_s
    return seconds


def _work_s(op: Op, device: Device, *, limit: bool) -> Array:
    tier = device.host_tier or HostTier()
    formats = [name for name in dtypes.compute_formats(op.dtype) if name in tier.peak_flop_per_s]
    if not tier.memory_bandwidth_bytes_per_s:
        raise BadRequest(
            f"the bandwidth of the memory behind {device.slug} is not known: give it with --set host.bandwidth=150GB/s"
        )
    if not formats:
        raise BadRequest(
            f"the peak rate of the processor behind {device.slug} is not known for {op.dtype}: "
            f"give it with --set host.peak.bf16=3TFLOP/s"
        )
    compute_s = np.asarray(op.flop, dtype=float) / (tier.peak_flop_per_s[formats[0]] * (1.0 if limit else COMPUTE_FRAC))
    memory_s = np.asarray(op.bytes, dtype=float) / (tier.memory_bandwidth_bytes_per_s * (1.0 if limit else MEMORY_FRAC))
    longer: Array = np.maximum(compute_s, memory_s)
    return longer

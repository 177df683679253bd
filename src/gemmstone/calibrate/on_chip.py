"""Leaving out measured calls whose data came from on-chip memory.

A benchmark repeats one call on the same data. What fits into a device's last-level cache is then read from there, which a
model with its many layers never does. It shows where calls move their bytes faster than the memory can.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gemmstone.calibrate.fit import Sample, take
from gemmstone.catalog import device_files

TOO_FAST_FRAC = 0.01  # share of impossible points from which the sizes around the cache's are distrusted as a whole
DISTRUSTED = (
    1 / 16,
    2.0,
)  # of the on-chip memory: below, launches decide; above, little is left in it from the last call


def beyond_memory(sample: Sample) -> Sample:
    """`sample` without the calls that moved their bytes faster than any whose bytes are too many for on-chip memory.

    For products, whose sizes around the cache's are too many and mostly too honest to be distrusted as a whole.
    """
    device = device_files.find(sample.device)
    moved = np.broadcast_to(np.asarray(sample.op.bytes, dtype=float), sample.seconds.shape)
    pace, fits = moved / sample.seconds, moved <= DISTRUSTED[1] * device.on_chip_bytes
    if fits.all():
        return sample
    kept = np.flatnonzero(~fits | (pace <= pace[~fits].max()))
    if kept.size >= (1.0 - TOO_FAST_FRAC) * sample.seconds.size:
        return sample
    return replace(sample, op=take(sample.op, kept), seconds=sample.seconds[kept], groups=sample.groups[kept])


def from_memory(sample: Sample) -> Sample:
    """`sample` without the calls that were served from on-chip memory."""
    device = device_files.find(sample.device)
    moved = np.broadcast_to(np.asarray(sample.op.bytes, dtype=float), sample.seconds.shape)
    too_fast = moved > sample.seconds * device.memory_bandwidth_bytes_per_s
    low, high = (share * device.on_chip_bytes for share in DISTRUSTED)
    cached = (moved > low) & (moved < high)
    if (too_fast & cached).mean() > TOO_FAST_FRAC:
        too_fast = too_fast | cached
    kept = np.flatnonzero(~too_fast)
    if kept.size == sample.seconds.size:
        return sample
    return replace(sample, op=take(sample.op, kept), seconds=sample.seconds[kept], groups=sample.groups[kept])

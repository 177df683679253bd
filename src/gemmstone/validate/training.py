"""Steps of training on one device: their measured time beside the predicted one.

A row has `hardware`, the op `training_step`, the sizes of a dense decoder (layers, hidden, intermediate, heads, head_dim,
vocabulary, parameters), batch and sequence; measured is time_s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gemmstone.catalog import device_files, training_files
from gemmstone.core.errors import BadRequest
from gemmstone.predict.training import Decoder, step_s, work

OP = "training_step"


def training_step(row: Mapping[str, str], count: Callable[[Mapping[str, str], str], float]) -> tuple[str, float, float]:
    """Slug of the device, seconds of a row's step and their relative error; `count` reads a column as a positive number."""
    device = device_files.find(row.get("hardware", ""))
    fits = training_files.load()
    if device.slug not in fits:
        raise BadRequest(f"no training steps were measured on {device.slug}; there are fits for {', '.join(fits)}")
    heads = int(count(row, "heads"))
    sizes = Decoder(
        layers=int(count(row, "layers")),
        hidden=int(count(row, "hidden")),
        intermediate=int(count(row, "intermediate")),
        heads=heads,
        kv_heads=heads,
        head_dim=int(count(row, "head_dim")),
        vocabulary=int(count(row, "vocabulary")),
        parameters=int(count(row, "parameters")),
    )
    asked = work(sizes, count(row, "batch"), int(count(row, "sequence")))
    fit = fits[device.slug]
    return device.slug, float(step_s(asked, device, fit)["step"]), fit.error_frac

"""The answer to "how long is a training step of this model on one device, and does it fit?"."""

from __future__ import annotations

from typing import Any

from gemmstone.catalog import device_files, training_files
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.predict import training
from gemmstone.simulate.scenario import load_model

MAX_BATCH = 1 << 20
MAX_SEQUENCE = 1 << 22
SECONDS_PER_HOUR = 3600.0


def training_step(
    model: str, hardware: str, *, batch: int, sequence: int, fused_attention: bool = False
) -> dict[str, Any]:
    """Seconds, tokens/s and memory of one optimiser step on one device, with what they are made of.

    Raises NoAnswer where it does not fit, with the memory tree, and BadRequest for a device without measured steps.
    """
    if not 1 <= batch <= MAX_BATCH or not 1 <= sequence <= MAX_SEQUENCE:
        raise BadRequest(f"batch must lie between 1 and {MAX_BATCH}, sequence between 1 and {MAX_SEQUENCE}")
    device = device_files.find(hardware)
    fits = training_files.load()
    if device.slug not in fits:
        raise BadRequest(f"no training steps were measured on {device.slug}; there are fits for {', '.join(fits)}")
    fit = fits[device.slug]
    sizes = training.decoder(load_model(model))
    asked = training.work(sizes, batch, sequence, fused_attention=fused_attention)
    held = {name: float(value) for name, value in training.memory_bytes(asked, fit).items() if value}
    need = float(training.need_bytes(asked, fit))
    if need > device.memory_bytes:
        raise NoAnswer(
            f"a step of {batch} x {sequence} tokens needs up to {need / 1e9:.1f} GB, {device.slug} has "
            f"{device.memory_bytes / 1e9:.1f} GB: take a smaller batch, or shorter sequences",
            detail=dict(sorted(held.items(), key=lambda item: -item[1])),
        )
    terms = {name: float(value) for name, value in training.step_s(asked, device, fit).items()}
    step_s = terms.pop("step")
    rate = batch * sequence / step_s
    outside = [
        f"{name} {value:g} is outside {low:g} to {high:g}, which was measured"
        for name, value in (("parameters", sizes.parameters), ("batch", batch), ("sequence", sequence))
        for low, high in (fit.valid[name],)
        if not low <= value <= high
    ]
    return {
        "model": model,
        "hardware": device.slug,
        "software": fit.software,
        "step_s": step_s,
        "terms_s": terms,
        "bound": _bound(**terms),
        "tokens_per_s": rate,
        "tokens_per_device_hour": rate * SECONDS_PER_HOUR,
        "mfu": float(asked.flop) / step_s / training.peak(device)[1],
        "memory_bytes": held,
        "needs_bytes": need,
        "error_frac": fit.error_frac,
        "warnings": outside,
    }


def _bound(*, host: float, compute: float, memory: float) -> str:
    """What a step waits for: the host while it takes longer than the device, which adds compute and memory."""
    return "host" if host > compute + memory else "compute" if compute > memory else "memory"

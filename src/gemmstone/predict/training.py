"""Seconds and bytes of one optimiser step of a dense decoder on one device.

The host launches kernels, layer by layer, while the device works; the longer of the two is the step, with a soft corner:

    step = (host^3 + device^3)^(1/3)
    host = layers x a          device = b x FLOP / peak + c x bytes / bandwidth

FLOP: 6 for a weight of a product and token, forward and backward, and attention as the engine computes it: full squares
unless a fused kernel skips what the causal mask hides. Bytes: activations kept for the backward pass, (34 h + 5 a s) a token
and layer (2205.05198, half precision; the second term is that of scores), 10 a logit (half precision, fp32 copy and gradient)
and 28 a parameter for Adam in fp32: weight, gradient and two moments read, three of them written.

Memory: 16 bytes a parameter (weight, gradient, two moments in fp32) and what is kept for the backward pass. Fitted numbers,
a TrainingFit, say how many bytes each kept value takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.core.deployment import Numbers
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.core.model import Attention, DenseMLP, Model
from gemmstone.core.training import TrainingFit, TrainingWork
from gemmstone.graph import parameters

CORNER = 3.0  # of the soft maximum: of 2, 3, 4, 6 and 10 the best over the five devices of calibrate/languini.py
STATE_BYTES = 16.0  # a parameter: weight, gradient and two moments of Adam, fp32
UPDATE_BYTES = 28.0  # moved a parameter and step: four values read, three written
KEPT_BYTES = 34.0  # a hidden value, token and layer (2205.05198, equation 2)
SCORE_BYTES = 5.0  # an attention score (the same)
LOGIT_BYTES = 10.0  # half precision, fp32 copy, fp32 gradient
PEAKS = ("bf16", "fp16", "fp32")  # the first that a device has is what mixed precision computes in


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The sizes of a dense decoder that its training step depends on."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    parameters: int
    gated: bool = False

    @property
    def weights(self) -> int:
        """Elements of all matrices that every token is multiplied by: layers and output."""
        attention = (2 * self.heads + 2 * self.kv_heads) * self.head_dim * self.hidden
        feed_forward = (3 if self.gated else 2) * self.hidden * self.intermediate
        return self.layers * (attention + feed_forward) + self.vocabulary * self.hidden


def decoder(model: Model) -> Decoder:
    """The sizes of a model whose layers are all alike. Raises BadRequest for other architectures."""
    kinds = {(layer.mixer, layer.feed_forward) for layer in model.layers}
    mixer, feed_forward = next(iter(kinds))
    if len(kinds) > 1 or not isinstance(mixer, Attention) or not isinstance(feed_forward, DenseMLP):
        raise BadRequest(f"{model.name}: a training step is predicted for dense decoders of equal layers only")
    return Decoder(
        layers=model.num_layers,
        hidden=model.hidden_size,
        intermediate=feed_forward.intermediate_size,
        heads=mixer.num_heads,
        kv_heads=mixer.num_kv_heads,
        head_dim=mixer.head_dim,
        vocabulary=model.vocab_size,
        parameters=parameters.count(model).total,
        gated=feed_forward.gated,
    )


def work(sizes: Decoder, batch: Numbers, sequence: int, *, fused_attention: bool = False) -> TrainingWork:
    """What one step over `batch` sequences of `sequence` tokens has to do."""
    tokens = batch * sequence
    scores = 0.0 if fused_attention else tokens * sequence * sizes.heads * sizes.layers
    square = 0.5 if fused_attention else 1.0
    attention = 4.0 * square * tokens * sequence * sizes.heads * sizes.head_dim * sizes.layers
    width = 4 * sizes.hidden + 2 * (sizes.heads + sizes.kv_heads) * sizes.head_dim
    moved = KEPT_BYTES * tokens * sizes.layers * sizes.hidden + SCORE_BYTES * scores
    return TrainingWork(
        layers=sizes.layers,
        parameters=sizes.parameters,
        flop=3.0 * (2.0 * tokens * sizes.weights + attention),
        moved_bytes=moved + LOGIT_BYTES * tokens * sizes.vocabulary + UPDATE_BYTES * sizes.parameters,
        layer_values=tokens * sizes.layers * (width + (3 if sizes.gated else 2) * sizes.intermediate),
        score_values=scores,
        logit_values=tokens * sizes.vocabulary,
    )


def peak(device: Device) -> tuple[str, float]:
    """Format and FLOP/s that mixed-precision training computes in on a device. Raises BadRequest where no peak is known."""
    for name in PEAKS:
        if name in device.peak_flop_per_s:
            return name, device.peak_flop_per_s[name]
    raise BadRequest(f"{device.slug} has no peak in {', '.join(PEAKS)}")


def step_s(asked: TrainingWork, device: Device, fit: TrainingFit) -> dict[str, Numbers]:
    """Seconds of a step, and of its terms: host, compute and memory."""
    host = fit.host_s_per_layer * asked.layers
    compute = fit.compute_factor * asked.flop / peak(device)[1]
    memory = fit.memory_factor * asked.moved_bytes / device.memory_bandwidth_bytes_per_s
    step = (host**CORNER + (compute + memory) ** CORNER) ** (1 / CORNER)
    return {"step": step, "host": host, "compute": compute, "memory": memory}


def memory_bytes(asked: TrainingWork, fit: TrainingFit, buffer_bytes: float = 0.0) -> dict[str, Numbers]:
    """Bytes on the device at the peak of a step, by what they hold; `buffer_bytes` are constants beside the parameters."""
    return {
        "weights, gradients, optimiser": STATE_BYTES * asked.parameters,
        "buffers": buffer_bytes,
        "kept values of layers": fit.value_bytes * asked.layer_values,
        "kept attention scores": fit.score_bytes * asked.score_values,
        "logits": fit.logit_bytes * asked.logit_values,
    }


def need_bytes(asked: TrainingWork, fit: TrainingFit, buffer_bytes: float = 0.0) -> Numbers:
    """Bytes a step may need, with the margin by which the fit underestimates one need in ten."""
    return sum(memory_bytes(asked, fit, buffer_bytes).values()) * (1.0 + fit.memory_margin_frac)

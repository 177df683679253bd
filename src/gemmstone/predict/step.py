"""How long a step takes: the operations of a step priced on the devices, plus the engine's own time on the host.

    step = max(device, launches) + host
    host = step_s + per_sequence_s * sequences + per_prefill_token_s * prefill tokens

Sequences and tokens are those of one attention-DP rank: every rank has a scheduler of its own.

Where calls return with their results, as on a processor, a step takes longer than its kernels measured alone by what lies between them:
layer_s * layers + passes * bytes of the layers / bandwidth of the memory (core.calibration.Added).

With CUDA graphs there is one launch a step; without, every kernel call costs the host launch_s and an eager engine on a
small model waits for the host, not for the device. The host coefficients are what is left exposed after overlap, fitted
per engine.

Operations of an overlapped group run side by side and share the device: each resource is busy for the time of the
operations that it bounds plus what the others need of it, and the busiest resource decides (arXiv:2408.12757, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gemmstone.core.calibration import EngineFit
from gemmstone.core.deployment import Array, Deployment, Step
from gemmstone.core.estimate import Estimate, overlap, repeat, serial
from gemmstone.core.model import Model
from gemmstone.graph import techniques, tower
from gemmstone.graph.build import LAYERS, Groups, OpGroup, fullest_stage
from gemmstone.predict.pricing import Pricing

RESOURCES = ("compute", "memory", "network", "host")  # that operations of an overlapped group compete for
HOST_ERROR = 0.4  # host coefficients vary by this between folds of the fit


@dataclass(frozen=True, kw_only=True)
class StepTimer:
    """Times steps of one deployment: call `estimate` for the tree, `seconds` for the numbers alone."""

    model: Model
    deployment: Deployment
    pricing: Pricing
    host: EngineFit = EngineFit()

    @property
    def start_s(self) -> float:
        """Seconds before a static batch starts: transport, and what the device compiles or loads first."""
        return self.host.request_s + self.pricing.scale.start_s

    def estimate(self, step: Step) -> Estimate:
        """The tree of one step, arrays over the operating points of `step`."""
        groups = techniques.built(self.model, self.deployment, step)
        parts = [self._group(group) for group in groups]
        device = serial("device", parts)
        if self.pricing.fidelity == "limit":
            return serial("step", [device])
        execution = [
            serial("pace", [device, self._uneven(device)]) if self.deployment.pipeline_parallel > 1 else device
        ]
        if self.host.launch_s and not self.deployment.cuda_graphs:
            execution.append(self._host("launches", self.host.launch_s * _calls(groups, device.time_s)))
        sequences = np.asarray(step.decode_seqs, dtype=float) + step.prefill_seqs
        prefill_tokens = np.asarray(step.prefill_seqs * step.prefill_tokens, dtype=float)
        host_s = self.pricing.scale.host * (
            self.host.step_s
            + self.host.per_sequence_s * sequences
            + self.host.per_prefill_token_s * prefill_tokens
            + np.zeros_like(device.time_s)
        )
        if not self.model.generates:  # an encoder's steps all have prompts
            host_s = np.where(prefill_tokens > 0, host_s, 0.0)
        added = self.host.added.get(self.deployment.activations)
        if added is not None:
            bandwidth = self.pricing.cluster.device.memory_bandwidth_bytes_per_s
            moved = sum(part.bytes for group, part in zip(groups, parts, strict=True) if group.name in LAYERS)
            between_s = added.layer_s * self.model.num_layers + added.passes * moved / bandwidth + 0.0 * device.time_s
            execution = [serial("calls", [*execution, self._host("between kernels", between_s)])]
        exposed = self._host("host", host_s, self.pricing.waiting_w)
        return serial("step", [overlap("execution", execution), exposed])

    def seconds(self, step: Step) -> Array:
        """Seconds of a step at every operating point."""
        return self.estimate(step).time_s

    def _group(self, group: OpGroup) -> Estimate:
        name = group.name if group.repeats == 1 else f"{group.name} x {group.repeats:g}"
        priced = [self.pricing.price(op) for op in group.ops]
        if group.overlapped:
            own = _shared(name, priced, group.repeats)
        else:
            own = serial(name, [repeat(part, group.repeats) for part in priced])
        if not group.streams:
            return own
        beside = serial("streams", [repeat(self.pricing.price(op), group.repeats) for op in group.streams])
        return overlap(name, [replace(own, name="computed"), beside])

    def _uneven(self, device: Estimate) -> Estimate:
        """What a micro-batch loses where stages hold unequal numbers of layers: the pipeline goes at the slowest's pace."""
        stages, layers = self.deployment.pipeline_parallel, self.model.num_layers
        lost_s = device.time_s * (fullest_stage(layers, stages) * stages - 1.0)
        return Estimate(
            name="uneven stages",
            time_s=lost_s,
            energy_j=np.zeros_like(lost_s),
            family="stages",
            limits={"compute": lost_s},
        )

    def _host(self, name: str, seconds: Array, waiting_w: float = 0.0) -> Estimate:
        """Time of the host; where it is exposed, what the waiting device draws meanwhile above standing power."""
        return Estimate(
            name=name,
            time_s=seconds,
            energy_j=waiting_w * seconds,
            family="host",
            source="fitted",
            error_frac=HOST_ERROR,
            limits={"host": seconds},
        )


def _shared(name: str, priced: list[Estimate], repeats: float) -> Estimate:
    """Operations side by side: a lane for each resource with what it has to do, the longest lane decides."""
    lanes = [serial(resource, (repeat(part, repeats) for part in _lane(resource, priced))) for resource in RESOURCES]
    return overlap(name, [lane for lane in lanes if lane.parts] or lanes[:1])


def _lane(resource: str, priced: list[Estimate]) -> Iterator[Estimate]:
    """What one resource has to do: all of the operations that it bounds, and its share of those that another bounds.

    Work and energy are booked where an operation is bound, which may differ between operating points.
    """
    for part in priced:
        needs = np.stack(np.broadcast_arrays(*(part.limits.get(name, np.zeros(1)) for name in RESOURCES)))
        bound = needs.argmax(axis=0) == RESOURCES.index(resource)
        shared_s = np.minimum(needs[RESOURCES.index(resource)] * part.count, part.time_s)
        time_s = np.where(bound, part.time_s, shared_s)
        own_bytes = np.where(bound, part.bytes, 0.0)
        if np.any(time_s > 0) or np.any(own_bytes > 0):
            yield replace(
                part,
                time_s=time_s,
                energy_j=np.where(bound, part.energy_j, 0.0),
                flop=np.where(bound, part.flop, 0.0),
                bytes=own_bytes,
                limits={resource: time_s},
            )


def _calls(groups: Groups, like: Array) -> Array:
    """Kernels of a step at every operating point; an image encoder is called where there are images."""
    calls = np.zeros_like(like)
    for group in groups:
        for op in group.ops:
            called = np.asarray(op.write_bytes, dtype=float) > 0 if group.name in tower.GROUPS else 1.0
            calls = calls + op.count * group.repeats * called
    return calls

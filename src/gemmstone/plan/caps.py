"""Power limits as a part of a plan: which one serves an objective that counts joules.

A device that waits for its memory loses little time under a limit and saves what its clock draws; below some limit time grows
faster than power falls, because standing power is paid for all of it. Deployments that lead at the TDP are priced again under
every limit of a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from gemmstone.core.errors import GemmstoneError
from gemmstone.core.hardware import Device
from gemmstone.plan.candidate import Candidate
from gemmstone.plan.question import Question
from gemmstone.predict import power
from gemmstone.predict.economics import Economics
from gemmstone.simulate.pool_metrics import respond
from gemmstone.simulate.pools import Pools
from gemmstone.simulate.system import System, assemble

OBJECTIVES = ("energy", "carbon")
STEPS = np.arange(0.30, 1.0, 0.05)  # limits that are tried, of the TDP
ROUND_FROM_W = 200.0  # a grid of 5% in tens of watts would name limits twice below it
LEADERS = 5  # deployments that are tried under limits
LEAST_ROOM = 1.1  # times standing power: drivers refuse limits near to what a device draws anyway
LEAST = {"NVIDIA": " (nvidia-smi -q -d POWER shows the least that its driver takes)"}
COMMANDS = {"NVIDIA": "sudo nvidia-smi -pl {watts:.0f}", "AMD": "sudo rocm-smi --setpoweroverdrive {watts:.0f}"}


def wanted(question: Question) -> bool:
    """Whether limits are searched: for an objective that counts joules, where the user gave none."""
    return question.objective in OBJECTIVES and not any(edit.startswith("power.cap=") for edit in question.edits)


def tried(lead: Candidate, economics: Callable[[Device], Economics]) -> Iterator[Candidate]:
    """A candidate under every limit that its devices can keep, at its own loads."""
    device = lead.system.cluster.device
    if not device.tdp_w:
        return
    for watts in limits_w(device.tdp_w):
        if watts > LEAST_ROOM * power.fit_of(device).standing_w:
            try:
                answer = respond(under(lead.made, watts), lead.answer.workload, economics, lead.loads)
            except GemmstoneError:
                continue
            yield lead._replace(answer=answer)


def limits_w(tdp_w: float) -> list[float]:
    """The limits that are tried on a device of this TDP, in whole watts, of large devices in tens; each once."""
    step_w = 10.0 if tdp_w >= ROUND_FROM_W else 1.0
    floored = np.floor(STEPS * tdp_w / step_w) * step_w
    return [float(watts) for watts in np.unique(floored) if watts > 0]


def under(made: System | Pools, watts: float) -> System | Pools:
    """The same deployment with a power limit on its devices; of pools on those that decode, which feel it least."""
    if isinstance(made, Pools):
        return replace(made, decode=_limited(made.decode, watts))
    return _limited(made, watts)


def _limited(made: System, watts: float) -> System:
    device = replace(made.cluster.device, power_cap_w=watts)
    cluster = replace(made.cluster, device=device)
    pricing = replace(made.pricing, cluster=cluster)
    return assemble(made.model, cluster, made.engine, made.deployment, pricing=pricing)


def command(device: Device, *, pools: bool = False) -> str:
    """The shell line that sets the limit on a node, of pools on those that decode; empty where there is none."""
    if device.power_cap_w is None or (device.tdp_w and device.power_cap_w >= device.tdp_w):
        return ""
    known = COMMANDS.get(device.vendor)
    where = "for the devices of the decode workers, chosen with -i" if pools else "on every node"
    line = f"# {where}: a limit of {device.power_cap_w:.0f} W{LEAST.get(device.vendor, '')}"
    return f"{line}\n{known.format(watts=device.power_cap_w)}" if known else line

"""Disaggregated serving: some workers compute prompts, others generate, and the cache travels between them.

Splitwise (2311.18677) and DistServe (2401.09670): the two phases want different batches and different hardware, and no
longer disturb each other; the price is the transfer of every prompt's keys and values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from gemmstone.core import units
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Cluster, Device, Link
from gemmstone.core.model import Model
from gemmstone.predict.deploy import MAX_DEGREE
from gemmstone.simulate.system import System

GRAMMAR = "WORKERS*tpT[.ppP][.adpA][.epE][@DEVICE], as in 2*tp4 or 1*tp8.ep8@h200-sxm"
_POOL = re.compile(r"(\d{1,6})\*tp(\d{1,6})((?:\.(?:pp|adp|ep)\d{1,6})*)(?:@(.+))?", re.ASCII | re.IGNORECASE)
LINKS = ("scale_up", "scale_out", "host")
LEAST_BANDWIDTH = 1e3  # bytes/s: a smaller number has lost its unit


@dataclass(frozen=True, kw_only=True)
class PoolChoice:
    """What a user said about one pool: equal workers, each split like a replica, on some device."""

    workers: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    attention_dp: int = 1
    expert_parallel: int | None = None  # None where the text does not say
    device: str = ""  # "" the one of the whole system
    max_num_seqs: int | None = None

    @property
    def worker_devices(self) -> int:
        """Devices of one worker."""
        return self.tensor_parallel * self.pipeline_parallel * self.attention_dp

    @property
    def num_devices(self) -> int:
        """Devices of the pool."""
        return self.workers * self.worker_devices

    def text(self) -> str:
        """The pool in the contract's grammar."""
        degrees = (("pp", self.pipeline_parallel), ("adp", self.attention_dp), ("ep", self.expert_parallel or 1))
        rest = "".join(f".{name}{degree}" for name, degree in degrees if degree > 1)
        return f"{self.workers}*tp{self.tensor_parallel}{rest}{'@' + self.device if self.device else ''}"


@dataclass(frozen=True, kw_only=True)
class PoolsChoice:
    """Both pools, and the link that their caches travel over: a name of LINKS, a bandwidth, or "" for the nearest."""

    prefill: PoolChoice
    decode: PoolChoice
    link: str = ""


@dataclass(frozen=True, kw_only=True)
class Pools:
    """A disaggregated deployment made ready to answer: one worker of each pool, and how many there are."""

    prefill: System
    prefill_workers: int
    decode: System
    decode_workers: int
    link: Link

    @property
    def model(self) -> Model:
        """What is served."""
        return self.decode.model

    @property
    def prefill_devices(self) -> int:
        """Devices that compute prompts."""
        return self.prefill_workers * self.prefill.deployment.num_devices

    @property
    def decode_devices(self) -> int:
        """Devices that generate."""
        return self.decode_workers * self.decode.deployment.num_devices

    @property
    def num_devices(self) -> int:
        """Devices of the whole system."""
        return self.prefill_devices + self.decode_devices


def layout(workers: int, worker: System) -> str:
    """A pool in the contract's grammar, its device left out."""
    run = worker.deployment
    return PoolChoice(
        workers=workers,
        tensor_parallel=run.tensor_parallel,
        pipeline_parallel=run.pipeline_parallel,
        attention_dp=run.attention_dp,
        expert_parallel=run.expert_parallel,
    ).text()


def workers(made: System | Pools) -> tuple[System, ...]:
    """The kinds of worker of a system: one, or a prefill worker and a decode worker."""
    return (made.prefill, made.decode) if isinstance(made, Pools) else (made,)


def parse(text: str) -> PoolChoice:
    """The pool that a text of the contract's grammar means.

    >>> parse("2*tp4.adp2.ep8@h200-sxm").worker_devices
    8
    """
    found = _POOL.fullmatch(text.strip())
    if not found:
        raise BadRequest(f"{text.strip()[:60]!r} is no pool: write {GRAMMAR}")
    workers, tensor, rest, device = found.groups()
    named = [re.fullmatch(r"(\D+)(\d+)", part) for part in filter(None, rest.lower().split("."))]
    degrees = {part[1]: int(part[2]) for part in named if part}
    if len(degrees) < len(named):
        raise BadRequest(f"{text.strip()[:60]!r} gives a degree twice: write {GRAMMAR}")
    choice = PoolChoice(
        workers=int(workers),
        tensor_parallel=int(tensor),
        pipeline_parallel=degrees.get("pp", 1),
        attention_dp=degrees.get("adp", 1),
        expert_parallel=degrees.get("ep"),
        device=(device or "").strip(),
    )
    for name in ("workers", "tensor_parallel", "pipeline_parallel", "attention_dp", "expert_parallel"):
        if not 1 <= (1 if getattr(choice, name) is None else getattr(choice, name)) <= MAX_DEGREE:
            raise BadRequest(f"{name} of the pool {text.strip()[:60]!r} must lie between 1 and {MAX_DEGREE}")
    return choice


def choice(
    prefill: str | None,
    decode: str | None,
    prefill_max_num_seqs: int | None = None,
    decode_max_num_seqs: int | None = None,
    link: str = "",
) -> PoolsChoice | None:
    """Both pools from their texts, None when neither is given; BadRequest when one of them is missing."""
    if prefill is None and decode is None:
        if prefill_max_num_seqs is not None or decode_max_num_seqs is not None or link:
            raise BadRequest("pools need both their layouts: give prefill and decode")
        return None
    if prefill is None or decode is None:
        raise BadRequest(f"disaggregated serving takes two pools: give {'decode' if decode is None else 'prefill'} too")
    return PoolsChoice(
        prefill=replace(parse(prefill), max_num_seqs=prefill_max_num_seqs),
        decode=replace(parse(decode), max_num_seqs=decode_max_num_seqs),
        link=link,
    )


def transfer_link(name: str, source: Device, target: Device, whole: Cluster) -> Link:
    """The link a prompt's cache takes from one device to another, as wide as the narrower end of it.

    Without a name: the links inside a node where the whole system is one, else those between nodes.
    """
    if name and name not in LINKS:
        return Link(bandwidth_bytes_per_s=_bandwidth(name))
    if not name:
        inside = source.slug == target.slug and whole.num_devices <= whole.devices_per_node
        name = "scale_up" if inside and source.scale_up else "scale_out"
    ends: list[Link] = [link for link in (getattr(source, name), getattr(target, name)) if link is not None]
    if len(ends) < 2:
        without = source if getattr(source, name) is None else target
        raise BadRequest(
            f"no {name} link is known for {without.slug}, over which the cache would travel: "
            f"give one with --set link.{name}.bandwidth=50GB/s, or name another with --kv-link"
        )
    return min(ends, key=lambda link: link.bandwidth_bytes_per_s)


def _bandwidth(text: str) -> float:
    """Bytes/s that are said instead of a link's name."""
    try:
        given = units.parse(text, "bytes_per_s")
    except BadRequest:
        given = 0.0
    if given < LEAST_BANDWIDTH:
        raise BadRequest(f"{text[:40]!r} is no link: name {', '.join(LINKS)}, or give a bandwidth as 50GB/s")
    return given


def transfer_bytes(pools: Pools, tokens: float) -> float:
    """Bytes of one prompt's cache that one device sends or takes in: ranks of a worker work side by side."""
    ends = (pools.prefill.memory, pools.decode.memory)
    return max(float(memory.sequence_bytes(tokens)) for memory in ends)


def transfer_s(pools: Pools, tokens: float) -> float:
    """Seconds until the cache of a prompt has reached the worker that goes on with it."""
    return pools.link.latency_s + transfer_bytes(pools, tokens) / pools.link.bandwidth_bytes_per_s


def same_formats(pools: Pools) -> str:
    """What differs between the caches of the two pools that must not, empty when nothing does."""
    one, other = pools.prefill.deployment, pools.decode.deployment
    return "" if one.kv_cache == other.kv_cache else f"one pool caches in {one.kv_cache}, the other in {other.kv_cache}"

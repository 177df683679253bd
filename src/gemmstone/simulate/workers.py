"""A deployment as replicas of a simulation: its steps compiled to tables, its cache counted in blocks, its power."""

from __future__ import annotations

import math
from dataclasses import replace

from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.graph.techniques.speculative import Speculative
from gemmstone.predict.economics import Economics
from gemmstone.predict.power import idle_w, standing_w
from gemmstone.simulate.inputs import check_generates
from gemmstone.simulate.pools import Pools, transfer_bytes
from gemmstone.simulate.replica import Drafts, Handing, Limits, Replica, Swap
from gemmstone.simulate.step_tables import MOST_SEQUENCES, compile_steps
from gemmstone.simulate.system import System

MOST_BLOCKS = 1 << 40


def replicas(
    made: System | Pools, *, mean_tokens: float, longest_tokens: float, economics: Economics, swap: bool = False
) -> list[Replica]:
    """All replicas of a system; of pools the prefill workers first. Requests have `mean_tokens`, prompt and answer.

    A replica is one engine, whatever it is split into: its requests lie evenly on the ranks of attention data parallelism
    and on the micro-batches of a pipeline.
    """
    if isinstance(made, System):
        one = replica(made, mean_tokens=mean_tokens, longest_tokens=longest_tokens, economics=economics, swap=swap)
        return [one] * made.deployment.data_parallel
    ends = [
        replica(worker, mean_tokens=mean_tokens, longest_tokens=longest_tokens, economics=economics, swap=swap)
        for worker in (made.prefill, made.decode)
    ]
    token_s = transfer_bytes(made, mean_tokens) / mean_tokens / made.link.bandwidth_bytes_per_s
    first = replace(ends[0], name="prefill", handing=Handing(latency_s=made.link.latency_s, token_s=token_s))
    second = replace(ends[1], name="decode", takes_over=True)
    return [first] * made.prefill_workers + [second] * made.decode_workers


def replica(
    system: System, *, mean_tokens: float, longest_tokens: float, economics: Economics, swap: bool = False
) -> Replica:
    """One engine of a system."""
    check_generates(system.model)
    run, device = system.deployment, system.cluster.device
    limits = limits_of(system, mean_tokens)
    table = compile_steps(system.timer, limits.max_num_seqs, limits.max_num_batched_tokens, longest_tokens)
    usd = economics.usd_per_device_hour
    devices = float(run.replica_devices)
    host = system.timer.host
    drafting = next((one for one in run.techniques if isinstance(one, Speculative)), None)
    return Replica(
        table=table,
        limits=limits,
        name=device.slug,
        devices=devices,
        standing_w=standing_w(device) * devices if device.tdp_w else math.nan,
        idle_w=idle_w(device) * devices if device.tdp_w else math.nan,
        usd_per_hour=None if usd is None else usd * devices,
        emit_steps=host.first_token_steps + (host.attention_dp_steps if run.attention_dp > 1 else 0.0),
        token_s=float(table["decode"][1, 0, 0]),
        swap=swap_of(system, limits) if swap else None,
        drafts=Drafts(tokens=drafting.tokens, accept=drafting.accept) if drafting else None,
        hit_frac=run.prefix_hit_frac,
    )


def limits_of(system: System, mean_tokens: float) -> Limits:
    """What one engine of a system holds and runs at once."""
    run, memory = system.deployment, system.memory
    if not memory.holds(mean_tokens):
        raise NoAnswer(
            f"a request of {mean_tokens:.0f} tokens does not fit in the KV cache, which holds "
            f"{memory.capacity_tokens(mean_tokens):.0f}: use more devices, a narrower cache or shorter requests",
            detail=memory.tree.as_dict(),
        )
    stages, ranks = run.pipeline_parallel, run.attention_dp
    size = Limits.block_size
    tokens = memory.capacity_tokens(mean_tokens) if memory.caches else float(MOST_BLOCKS)
    held = min(memory.sequences(mean_tokens), float(MOST_SEQUENCES))
    most = run.max_num_seqs or (MOST_SEQUENCES if memory.caches else max(1, int(held)))
    budget = run.max_num_batched_tokens * ranks * stages
    return Limits(
        total_blocks=int(min(max(1.0, tokens * ranks // size), MOST_BLOCKS)),
        max_num_seqs=max(1, min(most * ranks, budget, MOST_SEQUENCES)),
        max_num_batched_tokens=budget,
    )


def swap_of(system: System, limits: Limits) -> Swap:
    """Preemption to the host's memory over the device's link to it; raises BadRequest where that link is not known."""
    device = system.cluster.device
    if device.host is None:
        raise BadRequest(
            f"no link between {device.slug} and its host is known: give it with --set link.host.bandwidth=25GB/s"
        )
    block_bytes = float(system.memory.sequence_bytes(float(limits.block_size)))
    room = device.host_tier.memory_bytes if device.host_tier and device.host_tier.memory_bytes else math.inf
    return Swap(
        block_s=block_bytes / device.host.bandwidth_bytes_per_s,
        call_s=device.host.latency_s,
        group_blocks=1,
        host_blocks=int(min(room / max(block_bytes, 1.0), MOST_BLOCKS)),
    )

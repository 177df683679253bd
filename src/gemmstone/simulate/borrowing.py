"""Memory of other instances for one that lacks it (Infinite-LLM, arXiv:2401.02669), as an engine of a simulation sees it.

An instance attends to its borrowed blocks where they lie: in every layer of a step the queries of its sequences travel and
partial outputs come back, with the largest score and the sum of each (graph.techniques.distributed_kv). A step table counts
all cached tokens as if they were read at home; a creditor reads its part in the same time, so that what borrowing adds is

    layers (send and receive queries, outputs and statistics)        bytes that do not grow with the context

Without it, the blocks themselves would have to come in every step: block bytes / bandwidth for each.

What is lent is taken from the creditors for good, so blocks are conserved; that queries of others slow a creditor down is
charged to the debtor, whose table has the whole attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Attention, LatentAttention
from gemmstone.graph.techniques import partial
from gemmstone.graph.techniques.distributed_kv import query_bytes
from gemmstone.ops import collective
from gemmstone.simulate.replica import Borrowed, Replica
from gemmstone.simulate.system import System


def borrowed(system: System, blocks: int, *, sequences: float, reach: int) -> Borrowed:
    """Blocks elsewhere that are attended to where they lie, by so many sequences at once, among `reach` devices in all."""
    of, mixers = partial.vectors(system.model), [layer.mixer for layer in system.model.layers]
    if of is None:
        raise BadRequest(partial.problem("borrowing", system.model))
    heads = max(mixer.num_heads for mixer in mixers if isinstance(mixer, Attention | LatentAttention))
    message = sequences * heads / system.deployment.tensor_parallel * query_bytes(of)
    exchange = collective.send_recv("partial_outputs", message_bytes=message, ranks=reach)
    layer_s = float(np.ravel(system.pricing.price(exchange).time_s)[0])
    return Borrowed(blocks=blocks, step_s=system.model.num_layers * layer_s)


def fetched(system: System, blocks: int, *, block_size: int, reach: int) -> Borrowed:
    """Blocks elsewhere that come over the link in every step: what borrowing costs without attention where they lie."""
    link = system.cluster.link(reach)
    if link is None:
        raise BadRequest(f"no link joins {reach} devices of {system.cluster.device.slug}")
    block_bytes = float(system.memory.sequence_bytes(float(block_size)))
    return Borrowed(blocks=blocks, step_s=link.latency_s, block_s=block_bytes / link.bandwidth_bytes_per_s)


def pooled(replicas: Sequence[Replica], loan: Borrowed) -> list[Replica]:
    """Replicas of which the first borrows from all others, each lending the same number of blocks."""
    creditors = len(replicas) - 1
    if creditors < 1:
        raise BadRequest("borrowing needs at least two instances")
    each, more = divmod(loan.blocks, creditors)
    lent = [each + (at < more) for at in range(creditors)]
    made = [replace(replicas[0], borrowed=loan)]
    for replica, blocks in zip(replicas[1:], lent, strict=True):
        left = replica.limits.total_blocks - blocks
        if left < 1:
            raise BadRequest(
                f"an instance of {replica.limits.total_blocks} blocks cannot lend {blocks}: borrow less, or from more"
            )
        made.append(replace(replica, limits=replace(replica.limits, total_blocks=left)))
    return made

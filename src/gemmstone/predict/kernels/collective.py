"""Time of a collective operation: two algorithms inside a node, the faster one taken, and the network between nodes.

Inside a node of g ranks, for a message of M bytes and a link of L bytes/s in each direction:

    quick  = t0 + a1 g + direct / (L e1)         few steps, every rank talks to every other
    bulk   = t2 + a2 g + wire / (L eb (1 - z/g)) many steps, least bytes
    inside = (quick^-q + bulk^-q)^(-1/q)

z is what small groups lose: two ranks fill 55 to 60% of the link with which eight reach 70 to 80%.

wire is what a rank must send whatever the algorithm (ops/collective.py): 2 M (g-1)/g for an all-reduce, M (g-1)/g for
all-gather, reduce-scatter and all-to-all, M for a send. direct is the same, save for an all-reduce in one shot, where each
rank fetches everybody's whole message: M (g-1).

A message of copies (an all-to-all's `wanted` k, of tokens for their experts) may be sent once to each rank and node that
wants any: then each rank's M/k goes to n (1 - (1 - 1/n)^k) ranks over the link and to (N - 1)(1 - (1 - 1/N)^k) other nodes. A
kernel does so when its coefficient `once` is 1 (DeepEP's kernels for prompts; those for decoding send every copy).

Where devices cannot reach each other's memory the messages of all kinds are stored in the host's on their way. The form is the
same with other coefficients: those of such an all-reduce (THROUGH_HOST) serve every kind, which send in the same steps.

A group of n ranks over N = n / g nodes works in levels. Each rank has a network port of its own of R bytes/s and sends
through it 2 (N-1)/N M/g for an all-reduce, (N-1)/N M/g for all-gather and reduce-scatter (the node has shared the work
out by then), (N-1)/N M for an all-to-all and M for a send. Chunks are pipelined, so that the slower level hides the other:

    t = max( inside, outside bytes / (R en) ) + rounds (latency of the link + tn)

with rounds = log2 N, twice that for an all-reduce (down and up a tree), as NCCL counts them
(https://github.com/NVIDIA/nccl, src/graph/tuning.cc).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gemmstone.core.calibration import KernelTime, Rates
from gemmstone.core.deployment import Array, Numbers
from gemmstone.core.hardware import Cluster
from gemmstone.core.work import Op
from gemmstone.predict.kernels.gemm import soft_max

# kind -> how often a message passes through the group
PASSES = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0, "send_recv": 1.0}
MAX_SLOT_BYTES_PER_S = 128e9  # PCI Express 6.0, 16 lanes, each way (pcisig.com); NVLink-C2C has 450 GB/s
THROUGH_HOST = "host"  # variant of the coefficients for devices that exchange through the host's memory
HOST_DEVICES = 8  # PCIe accelerators in a usual server


class Traffic(NamedTuple):
    """Bytes of one rank: wire and direct over the link in a node of `inner` ranks, outside over its port to other nodes."""

    wire: Array
    direct: Array
    outside: Array
    inner: Numbers
    nodes: Array


def traffic(op: Op, rates: Rates, once: bool = False) -> Traffic:
    """What a rank sends for a collective, by level; see the module. `once`: no copies of a token to the same rank or node."""
    message = np.asarray(op.shape["message_bytes"], dtype=float)
    ranks = op.shape["ranks"]
    inner = np.minimum(ranks, rates.node_devices) if rates.node_devices else ranks
    nodes = np.ceil(ranks / inner)
    passes = PASSES[op.kind]
    if op.kind == "send_recv":
        wire = direct = message
        outside = message * (nodes > 1)
        inner = 2.0  # one to one, however many ranks the group has
    elif op.kind == "all_to_all":
        wire = message * (inner - 1.0) / ranks
        outside = message * (nodes - 1.0) / nodes
        if once and "wanted" in op.shape:
            own, copies = message / op.shape["wanted"], op.shape["wanted"]
            wire = own * ranks * (1.0 - (1.0 - 1.0 / ranks) ** copies) * ((inner - 1.0) / inner)
            outside = own * (nodes - 1.0) * (1.0 - (1.0 - 1.0 / nodes) ** copies)
        direct = wire
    else:
        wire = message * (passes * (inner - 1.0) / inner)
        direct = message * (inner - 1.0) if op.kind == "all_reduce" else wire
        outside = message * (passes * (nodes - 1.0) / nodes / inner)
    return Traffic(wire, direct, outside, inner, nodes)


def collective(op: Op, rates: Rates, c: Mapping[str, float]) -> KernelTime:
    """Seconds of one collective. Coefficients: t0, a1, e1, t2, a2, eb, z, q inside a node; tn, en outside; once, or 0."""
    wire, direct, outside, inner, nodes = traffic(op, rates, once=c.get("once", 0.0) > 0)
    quick_s = c["t0"] + c["a1"] * inner + direct / (rates.link_bytes_per_s * c["e1"])
    bulk_s = c["t2"] + c["a2"] * inner + wire / (rates.link_bytes_per_s * c["eb"] * (1.0 - c["z"] / inner))
    least_s = wire / rates.link_bytes_per_s  # joining two algorithms softly must not beat the link
    inside_s = np.maximum(1.0 / soft_max(1.0 / quick_s, 1.0 / bulk_s, c["q"]), least_s)
    launch_s = np.minimum(inside_s, c["t0"] + c["a1"] * inner)
    if rates.outer_bytes_per_s and np.any(nodes > 1):
        rounds = (PASSES[op.kind] if op.kind == "all_reduce" else 1.0) * np.log2(nodes)
        waits_s = rounds * (rates.outer_latency_s + c["tn"])
        time_s = np.maximum(inside_s, outside / (rates.outer_bytes_per_s * c["en"])) + waits_s
        return KernelTime(time_s, network_s=time_s - launch_s - waits_s, launch_s=launch_s + waits_s)
    return KernelTime(inside_s, network_s=inside_s - launch_s, launch_s=launch_s)


def with_links(rates: Rates, cluster: Cluster) -> Rates:
    """`rates` with the links of a cluster: scale-up inside a node, scale-out between nodes.

    Devices without a scale-up link talk over the host's, up to HOST_DEVICES of them in one machine. The host's link is no
    network: without a scale-out link outer_bytes_per_s is 0, and what joins a processor and its own host (faster than any
    PCI Express slot) joins no devices either.
    """
    device = cluster.device
    slot = device.host if device.host and device.host.bandwidth_bytes_per_s <= MAX_SLOT_BYTES_PER_S else None
    inside, outside = device.scale_up or slot, device.scale_out
    bridged = device.scale_up is not None and cluster.devices_per_node == device.scale_up.domain < HOST_DEVICES
    if outside is None and bridged:  # pairs and fours of cards in a machine reach the others over their slots
        outside = slot
    node = cluster.devices_per_node if device.scale_up else max(cluster.devices_per_node, HOST_DEVICES)
    return rates._replace(
        link_bytes_per_s=inside.bandwidth_bytes_per_s if inside else 0.0,
        link_latency_s=inside.latency_s if inside else 0.0,
        outer_bytes_per_s=outside.bandwidth_bytes_per_s if outside else 0.0,
        outer_latency_s=outside.latency_s if outside else 0.0,
        node_devices=float(node),
    )

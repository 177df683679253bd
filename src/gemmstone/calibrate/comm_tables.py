"""Reading the tables of messages between devices: comm/custom_allreduce, comm/nccl and comm/wideep_deepep_ll.

A size is the whole message of the operation, in elements: at 512 MiB over eight H100 an all-gather then moves 336 GB/s
over a link of 450 (75%); if it were a rank's share, eight times as much would pass a link that cannot carry it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import Coefficient, FitSpec, Groups, Sample, group_ids, join
from gemmstone.catalog import device_files
from gemmstone.core.deployment import Array
from gemmstone.core.work import Op
from gemmstone.ops import collective as ops
from gemmstone.ops.moe import DISPATCH_BYTES
from gemmstone.predict.kernels.collective import MAX_SLOT_BYTES_PER_S, PASSES, THROUGH_HOST, collective

# What the network adds, in the fits whose table stays inside a node: the values that the DeepEP fits of H100 and H200
# over 2, 4 and 8 nodes agree on (docs/physics/collectives.md).
NETWORK_ROUND_S = 1e-5
NETWORK_EFFICIENCY = 0.87

COEFFICIENTS = {
    "t0": Coefficient(5e-6, 5e-7, 5e-5),
    "a1": Coefficient(5e-7, 1e-9, 5e-6),
    "e1": Coefficient(0.2, 1e-3, 1.0),
    "t2": Coefficient(1.5e-5, 1e-6, 2e-4),
    "a2": Coefficient(1e-6, 1e-9, 2e-5),
    "eb": Coefficient(0.75, 0.1, 1.0),
    "z": Coefficient(0.3, 1e-3, 0.95),
    "q": Coefficient(4.0, 2.0, 20.0),
    "tn": Coefficient(NETWORK_ROUND_S, NETWORK_ROUND_S, NETWORK_ROUND_S),
    "en": Coefficient(NETWORK_EFFICIENCY, NETWORK_EFFICIENCY, NETWORK_EFFICIENCY),
}
ONCE = {"once": Coefficient(1.0, 1.0, 1.0)}
MULTI_NODE = {**COEFFICIENTS, "tn": Coefficient(1e-5, 1e-7, 1e-4), "en": Coefficient(0.8, 0.1, 1.0)}

ELEMENT_BYTES = {"half": 2.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "float": 4.0}
NCCL_NAMES = {
    "all_reduce": ops.all_reduce,
    "all_gather": ops.all_gather,
    "reduce_scatter": ops.reduce_scatter,
    "alltoall": ops.all_to_all,
}
COMBINE_BYTES = 2.0  # of a value of an expert's result, in bf16
DEEPEP_UNITS = 20  # multiprocessors that DeepEP gives to its kernels for prompts unless told otherwise
# Nodes from which the table's kernels for prompts ran without tuning: 64 ranks take 2.3 times as long as the 51 GB/s that DeepEP
# itself reports for them, as much as for 32 (58 GB/s).
DEEPEP_UNTUNED = 8
# Share of a PCI Express slot that a large all-reduce over two cards fills: 0.24 through the host's memory (RTX PRO 6000 with
# 15.3 of 64 GB/s; V100 with 3.8 of 16 in another table), 0.61 where they reach each other's memory. Between them, their mean ratio.
HOST_SHARE = 0.38
LARGE_BYTES = 1 << 26
DEVICES_PER_NODE = {"gb200": 4, "gb300": 4}  # of the machines the DeepEP table was measured on; elsewhere 8


def read_all_reduce(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """All-reduces: the engines' own kernels as a CUDA graph launches them, and NCCL's.

    Tables of cards that cannot reach each other's memory make coefficients of their own. What an engine calls its own kernel
    is NCCL's there, with the same times from every engine.
    """
    samples: list[Sample] = []
    found: dict[bool, list[tables.Table]] = {False: [], True: []}
    for table in tables.load(directory, "comm", "custom_allreduce", devices):
        found[_through_host(table)].append(table)
    for through_host, measured in found.items():
        for table in tables.newest(measured):
            for source, op, rows in _all_reduces(table):
                groups = group_ids(np.asarray(op.shape["message_bytes"]), np.asarray(op.shape["ranks"]))
                sample = _sample(table, op, rows, groups, engine=table.backend, kernel=source)
                samples.append(replace(sample, variant=THROUGH_HOST) if through_host else sample)
    return samples + _nccl(directory, devices, "all_reduce")


def _all_reduces(table: tables.Table) -> Iterator[tuple[str, Op, tables.Frame]]:
    """Kernel, messages and rows of each all-reduce in a table; without eager rows, which time the host that launches them."""
    for (source, dtype), rows in tables.parts(table.rows, ("kernel_source", "allreduce_dtype")):
        if not source.endswith("_eager") and dtype in ELEMENT_BYTES:
            message = _numbers(rows, "message_size") * ELEMENT_BYTES[dtype]
            yield source, _op("all_reduce", message, _numbers(rows, "num_gpus")), rows


def _through_host(table: tables.Table) -> bool:
    """Whether the cards of a table were joined by PCI Express and large messages ran as slowly as through the host's memory."""
    link = device_files.find(table.device).scale_up
    if link is None or link.bandwidth_bytes_per_s > MAX_SLOT_BYTES_PER_S:
        return False
    shares = [0.0]
    for _, op, rows in _all_reduces(table):
        large = np.asarray(op.shape["message_bytes"]) >= LARGE_BYTES
        rate = np.asarray(op.wire_bytes) / (_numbers(rows, "latency") * 1e-3)
        shares += (rate[large] / link.bandwidth_bytes_per_s).tolist()
    return 0.0 < max(shares) < HOST_SHARE


def read_all_gather(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """NCCL's all-gathers."""
    return _nccl(directory, devices, "all_gather")


def read_reduce_scatter(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """NCCL's reduce-scatters."""
    return _nccl(directory, devices, "reduce_scatter")


def read_all_to_all(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """NCCL's all-to-alls, and DeepEP's dispatch (fp8 tokens) and combine (bf16) over one to eight nodes.

    A rank's message is what it sends: tokens x experts per token x hidden values.
    """
    slugs = None if devices is None else list(devices)
    exchanges = [
        *_deepep_low_latency(directory, slugs),
        *_deepep_normal(directory, slugs),
        *_over_nvlink(directory, slugs),
    ]
    return [*exchanges, *_nccl(directory, slugs, "alltoall")]


def _deepep_low_latency(directory: Path, devices: Iterable[str] | None) -> list[Sample]:
    """DeepEP's kernels for decoding, which send a copy of a token to each of its experts."""
    samples: dict[tuple[str, str, str], list[Sample]] = {}
    found = tables.load(directory, "comm", "wideep_deepep_ll", devices)
    for table in tables.newest(found, ("node_num",)):
        rows = table.rows
        per_node = DEVICES_PER_NODE.get(table.device, 8)
        values = _numbers(rows, "num_token") * _numbers(rows, "num_topk") * _numbers(rows, "hidden_size")
        ranks = _numbers(rows, "node_num") * per_node
        for phase, variant, size in (("dispatch", "fp8", DISPATCH_BYTES), ("combine", "bf16", COMBINE_BYTES)):
            sample = Sample(
                device=table.device,
                engine=table.backend,
                variant=variant,
                kernel=f"deepep_ll {phase}",
                op=_op("all_to_all", values * size, ranks),
                seconds=_numbers(rows, f"{phase}_avg_t_us") * 1e-6,
                groups=group_ids(values, ranks),
                inputs=table.inputs,
                coefficients=MULTI_NODE if ranks.max() > per_node else None,
            )
            samples.setdefault((table.device, table.backend, phase), []).append(sample)
    return [*map(_joined, samples.values())]


def _deepep_normal(directory: Path, devices: Iterable[str] | None) -> list[Sample]:
    """DeepEP's kernels for prompts: a token goes once to a node and once to a rank, after the ranks were told what comes."""
    samples: dict[tuple[str, str, str], list[Sample]] = {}
    found = tables.load(directory, "comm", "wideep_deepep_normal", devices)
    for table in tables.newest(found, ("node_num",)):
        per_node = DEVICES_PER_NODE.get(table.device, 8)
        for phase, variant, size in (("dispatch", "fp8", DISPATCH_BYTES), ("combine", "bf16", COMBINE_BYTES)):
            told = (table.rows[f"{phase}_sms"] == DEEPEP_UNITS) & (table.rows["node_num"] < DEEPEP_UNTUNED)
            rows = table.rows.filter(told)
            copies = _numbers(rows, "num_topk")
            values = _numbers(rows, "num_token") * copies * _numbers(rows, "hidden_size")
            ranks = _numbers(rows, "node_num") * per_node
            op = _op("all_to_all", values * size, ranks)
            sample = Sample(
                device=table.device,
                engine=table.backend,
                variant=variant,
                kernel=f"deepep_normal {phase}",
                op=replace(op, shape={**op.shape, "wanted": copies}),
                seconds=(_numbers(rows, f"{phase}_transmit_us") + _numbers(rows, f"{phase}_notify_us")) * 1e-6,
                groups=group_ids(values, ranks),
                inputs=table.inputs,
                coefficients={**MULTI_NODE, **ONCE} if ranks.size and ranks.max() > per_node else None,
            )
            samples.setdefault((table.device, table.backend, phase), []).append(sample)
    joined = [_joined([part for part in parts if part.seconds.size]) for parts in samples.values()]
    return [replace(sample, coefficients=sample.coefficients or {**COEFFICIENTS, **ONCE}) for sample in joined]


def _over_nvlink(directory: Path, devices: Iterable[str] | None) -> list[Sample]:
    """TensorRT-LLM's exchange inside a rack: fp8 tokens once to each rank, with the notice before, and bf16 results back."""
    samples = []
    for table in tables.newest(tables.load(directory, "comm", "trtllm_alltoall", devices)):
        found = table.rows.filter(table.rows["moe_dtype"] == "fp8")
        keys = ["kernel_source", "moe_ep_size", "topk", "hidden_size", "num_tokens"]
        notice = found.filter(found["op_name"] == "alltoall_prepare").select(*keys, notice="latency")
        for phase, variant, size in (("dispatch", "fp8", DISPATCH_BYTES), ("combine", "bf16", COMBINE_BYTES)):
            rows = found.filter(found["op_name"] == f"alltoall_{phase}").join(notice, on=keys, maintain_order="left")
            for (source,), part in tables.parts(rows, ("kernel_source",)):
                copies, ranks = _numbers(part, "topk"), _numbers(part, "moe_ep_size")
                message = _numbers(part, "num_tokens") * copies * _numbers(part, "hidden_size") * size
                op = _op("all_to_all", message, ranks)
                extra = _numbers(part, "notice") if phase == "dispatch" else 0.0
                samples.append(
                    Sample(
                        device=table.device,
                        engine=table.backend,
                        variant=variant,
                        kernel=f"{source} {phase}",
                        op=replace(op, shape={**op.shape, "wanted": copies}),
                        seconds=(_numbers(part, "latency") + extra) * 1e-3,
                        groups=group_ids(message, ranks),
                        inputs=table.inputs,
                        coefficients={**COEFFICIENTS, **ONCE},
                    )
                )
    return samples


def read_send_recv(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """One rank's message to another: NCCL's all-to-all between two ranks, where each sends half of its message."""
    samples = []
    for sample in _nccl(directory, devices, "alltoall"):
        pair = np.flatnonzero(sample.op.shape["ranks"] == 2)
        message = np.asarray(sample.op.shape["message_bytes"])[pair] / 2
        op = _op("send_recv", message, np.full(pair.size, 2.0))
        # two ranks say nothing of how the time grows with more
        fixed = {**COEFFICIENTS, **dict.fromkeys(("a1", "a2", "z"), Coefficient(0.0, 0.0, 0.0))}
        groups = group_ids(message)
        samples.append(replace(sample, op=op, seconds=sample.seconds[pair], groups=groups, coefficients=fixed))
    return samples


def _nccl(directory: Path, devices: Iterable[str] | None, name: str) -> list[Sample]:
    samples = []
    for table in tables.newest(tables.load(directory, "comm", "nccl", devices)):
        for (found,), rows in tables.parts(table.rows, ("op_name",)):
            if found == name:
                size = np.array([ELEMENT_BYTES.get(dtype, np.nan) for dtype in rows["nccl_dtype"].to_list()])
                ranks, message = _numbers(rows, "num_gpus"), _numbers(rows, "message_size") * size
                kind = NCCL_NAMES[name].__name__
                groups = group_ids(message, ranks)
                samples.append(_sample(table, _op(kind, message, ranks), rows, groups, engine="nccl", kernel="nccl"))
    return samples


def _sample(table: tables.Table, op: Op, rows: tables.Frame, groups: Groups, *, engine: str, kernel: str) -> Sample:
    return Sample(
        device=table.device,
        engine=engine,
        variant="bf16",
        kernel=kernel,
        op=op,
        seconds=_numbers(rows, "latency") * 1e-3,
        groups=groups,
        inputs=table.inputs,
    )


def _joined(samples: list[Sample]) -> Sample:
    """The Samples of one kernel in several versions as one."""
    sizes = [sample.seconds.size for sample in samples]
    op = join([sample.op for sample in samples], sizes)
    inputs = {**samples[0].inputs, "version": ", ".join(sample.inputs["version"] for sample in samples)}
    return replace(
        samples[0],
        op=op,
        seconds=np.concatenate([sample.seconds for sample in samples]),
        groups=group_ids(np.asarray(op.shape["message_bytes"]), np.asarray(op.shape["ranks"])),
        inputs=inputs,
        coefficients=next((s.coefficients for s in samples if s.coefficients), None),
    )


def _op(kind: str, message_bytes: Array, ranks: Array) -> Op:
    """A collective with the ranks of each point of its own; ops/collective.py builds those of one group."""
    share = PASSES[kind] * (ranks - 1) / ranks if kind != "send_recv" else 1.0
    return Op(
        name=kind,
        kind=kind,
        wire_bytes=message_bytes * share,
        read_bytes=message_bytes,
        write_bytes=message_bytes,
        shape={"message_bytes": message_bytes, "ranks": ranks},
    )


def _numbers(rows: tables.Frame, column: str) -> Array:
    return rows[column].to_numpy().astype(float)


FAMILIES = {
    name: FitSpec(family=name, form=collective, read=read, coefficients=COEFFICIENTS)
    for name, read in {
        "all_reduce": read_all_reduce,
        "all_gather": read_all_gather,
        "reduce_scatter": read_reduce_scatter,
        "all_to_all": read_all_to_all,
        "send_recv": read_send_recv,
    }.items()
}

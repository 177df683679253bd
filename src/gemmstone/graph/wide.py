"""Steps whose activations are fp32: blocks state their work for activations of 16 bits, and here it becomes that of 32.

What a deployment says in formats of its own (matrices, the cache) is in those already.
"""

from __future__ import annotations

from dataclasses import replace

from gemmstone.core.work import Op

WIDER = 2.0  # bytes of an fp32 value over those of a 16-bit one
MESSAGES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")


def in_fp32(op: Op) -> Op:
    """An operation on activations of 16 bits as it is on fp32 ones: elementwise work, plain matrices, messages."""
    if op.variant == "fp32" or op.routine == "sampling":  # logits are sampled in fp32 whatever the model computes in
        return op
    if op.kind in MESSAGES:
        message = {"message_bytes": WIDER * op.shape["message_bytes"]}
        return replace(_twice(op), wire_bytes=WIDER * op.wire_bytes, shape={**op.shape, **message})
    if op.kind in ("elementwise", "gemm", "batched_gemm") and op.variant == "bf16":
        return replace(_twice(op), weight_bytes=WIDER * op.weight_bytes, dtype="fp32", variant="fp32")
    return op


def _twice(op: Op) -> Op:
    return replace(op, read_bytes=WIDER * op.read_bytes, write_bytes=WIDER * op.write_bytes)

"""FLOP, bytes and messages of the operations of a language model. Pure arithmetic, no hardware."""

from gemmstone.ops import attention, collective, elementwise, matmul, moe, recurrent, sparse

# name -> the function that builds the Op; property tests run on every row
OPS = {
    "gemm": matmul.gemm,
    "batched_gemm": matmul.batched_gemm,
    "attention_prefill": attention.prefill,
    "attention_decode": attention.decode,
    "latent_prefill": attention.latent_prefill,
    "latent_decode": attention.latent_decode,
    "grouped_gemm": moe.grouped_gemm,
    "all_reduce": collective.all_reduce,
    "all_gather": collective.all_gather,
    "reduce_scatter": collective.reduce_scatter,
    "all_to_all": collective.all_to_all,
    "send_recv": collective.send_recv,
    "elementwise": elementwise.elementwise,
}

__all__ = ["OPS", "attention", "collective", "elementwise", "matmul", "moe", "recurrent", "sparse"]

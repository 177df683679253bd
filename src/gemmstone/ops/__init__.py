"""FLOP, bytes and messages of the operations of a language model. Pure arithmetic, no hardware."""

from gemmstone.ops import attention, collective, elementwise, matmul, moe, offload, recurrent, sparse

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
    "gated_delta_prefill": recurrent.gated_delta_prefill,
    "gated_delta_decode": recurrent.gated_delta_decode,
    "mamba2_prefill": recurrent.mamba2_prefill,
    "mamba2_decode": recurrent.mamba2_decode,
    "linear_recurrence_prefill": recurrent.linear_recurrence_prefill,
    "linear_recurrence_decode": recurrent.linear_recurrence_decode,
    "causal_conv_prefill": recurrent.causal_conv_prefill,
    "causal_conv_decode": recurrent.causal_conv_decode,
    "index_logits_prefill": sparse.index_logits_prefill,
    "index_logits_decode": sparse.index_logits_decode,
    "top_k": sparse.top_k_decode,
    "sparse_latent_prefill": sparse.latent_prefill,
    "sparse_latent_decode": sparse.latent_decode,
    "host_read": offload.host_read,
    "host_write": offload.host_write,
    "storage_read": offload.storage_read,
    "peer_read": offload.peer_read,
}

__all__ = ["OPS", "attention", "collective", "elementwise", "matmul", "moe", "offload", "recurrent", "sparse"]

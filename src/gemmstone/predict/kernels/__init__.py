"""Kernel forms: how long one call takes as a function of its work, a device's rates and a handful of coefficients.

Each form is `form(op, rates, coefficients) -> KernelTime`; the same function is fitted by calibrate and used by predict.
"""

from gemmstone.predict.kernels import recurrent, sparse
from gemmstone.predict.kernels.attention import attention_decode, attention_prefill
from gemmstone.predict.kernels.collective import collective
from gemmstone.predict.kernels.elementwise import elementwise
from gemmstone.predict.kernels.gemm import gemm
from gemmstone.predict.kernels.grouped_gemm import grouped_gemm
from gemmstone.predict.kernels.latent import latent_decode, latent_prefill

# kind of operation -> its form
FORMS = {
    "gemm": gemm,
    "batched_gemm": gemm,
    "attention_prefill": attention_prefill,
    "attention_decode": attention_decode,
    "latent_prefill": latent_prefill,
    "latent_decode": latent_decode,
    "grouped_gemm": grouped_gemm,
    "all_reduce": collective,
    "all_gather": collective,
    "reduce_scatter": collective,
    "all_to_all": collective,
    "send_recv": collective,
    "elementwise": elementwise,
    "gated_delta_prefill": recurrent.scan,
    "gated_delta_decode": recurrent.state_update,
    "mamba2_prefill": recurrent.scan,
    "mamba2_decode": recurrent.state_update,
    "linear_recurrence_prefill": recurrent.scan,
    "linear_recurrence_decode": recurrent.state_update,
    "causal_conv_prefill": recurrent.causal_conv,
    "causal_conv_decode": recurrent.causal_conv,
    "index_logits_prefill": sparse.index_logits_prefill,
    "index_logits_decode": sparse.index_logits_decode,
    "top_k": sparse.top_k,
    "sparse_latent_prefill": sparse.latent_prefill,
    "sparse_latent_decode": sparse.latent_decode,
}

"""How a model is run, what is asked of it, and the unit of execution that joins the two: the Step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Numbers = Array | float | int


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A resolved way to run a model: every field has its final value.

    A replica has pipeline_parallel x tensor_parallel x attention_dp devices; there are data_parallel replicas.
    Experts lie over tensor_parallel x attention_dp devices of a stage, expert_parallel ways by expert and the rest by tensor.
    """

    engine: str
    engine_version: str = ""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    expert_parallel: int = 1
    attention_dp: int = 1
    weights: str = "bf16"  # stored format of the feed-forward and expert matrices
    activations: str = "bf16"  # format those are computed in
    attention_weights: str = "bf16"  # the same two for the projections around attention
    attention_activations: str = "bf16"
    kv_cache: str = "bf16"
    model_dtype: str = "bf16"  # of everything that is not quantised: embedding, router, head
    max_num_seqs: int = 0  # per replica and attention-DP rank, 0: what the KV cache holds
    max_num_batched_tokens: int = 8192
    gpu_memory_utilization: float = 0.9
    memory_fraction_of: str = (
        "total"  # what the fraction counts: total: everything the engine takes; free: the cache alone
    )
    memory_reserve_bytes: float = 0.0  # left free by the engine
    prefix_hit_frac: float = 0.0
    cuda_graphs: bool = True
    images_per_token: float = (
        0.0  # images, or the squares they are cut into, that a token of a prompt brings on average
    )
    image_patches: float = 0.0  # patches of each of them
    techniques: tuple[object, ...] = ()  # settings of rows in graph.techniques.TECHNIQUES

    @property
    def stage_devices(self) -> int:
        """Devices of one pipeline stage of one replica."""
        return self.tensor_parallel * self.attention_dp

    @property
    def replica_devices(self) -> int:
        """Devices of one replica."""
        return self.stage_devices * self.pipeline_parallel

    @property
    def num_devices(self) -> int:
        """Devices of the whole system."""
        return self.replica_devices * self.data_parallel


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is asked of the system. Lengths are tokens and nominal: a spread s draws uniformly from (1 - s) to 1 times them."""

    input_tokens: float
    output_tokens: float
    length_spread: float = 0.0
    mode: str = "concurrency"  # concurrency | rate | batch | offline
    load: float = 1.0  # requests in flight, requests/s, batch size; unused when offline
    requests_per_slot: float = 0.0  # 0: steady state
    images: int = 0  # in every prompt, beside its input_tokens
    image_width: int = 1024  # pixels
    image_height: int = 1024
    image_tokens: float = 0.0  # what the images of a prompt are for the model at hand

    @property
    def mean_input_tokens(self) -> float:
        """Expected prompt length, images included."""
        return self.input_tokens * (1 - self.length_spread / 2) + self.image_tokens

    @property
    def mean_output_tokens(self) -> float:
        """Expected number of generated tokens."""
        return max(1.0, self.output_tokens * (1 - self.length_spread / 2))


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one replica executes in one engine step; each field a number or an array over operating points.

    prefill_seqs prompts (or chunks) advance by prefill_tokens each on top of prefill_past tokens already in the cache;
    decode_seqs sequences advance by decode_tokens each (more than one when drafted tokens are verified) with
    decode_context tokens in the cache. Counts are for one attention-DP rank and may be fractional: a Step may stand for
    the average of many.
    """

    prefill_seqs: Numbers = 0.0
    prefill_tokens: Numbers = 0.0
    prefill_past: Numbers = 0.0
    decode_seqs: Numbers = 0.0
    decode_context: Numbers = 0.0
    decode_tokens: float = 1.0
    sampled_seqs: Numbers | None = None  # sequences whose logits are needed; default: all of both kinds

    def part(self, parts: float) -> Step:
        """One of so many equal parts of the batch."""
        sampled = None if self.sampled_seqs is None else self.sampled_seqs / parts
        return replace(
            self,
            prefill_seqs=self.prefill_seqs / parts,
            decode_seqs=self.decode_seqs / parts,
            sampled_seqs=sampled,
        )

    @property
    def tokens(self) -> Any:
        """Tokens that go through the linear layers of one attention-DP rank."""
        return np.asarray(self.prefill_seqs * self.prefill_tokens + self.decode_rows, dtype=float)

    @property
    def decode_rows(self) -> Any:
        """Tokens of the decoding sequences."""
        return self.decode_seqs * self.decode_tokens

    @property
    def sampled(self) -> Any:
        """Positions that need logits: the last of each prompt, all of those that decode."""
        if self.sampled_seqs is not None:
            return np.asarray(self.sampled_seqs, dtype=float) + self.decode_seqs * (self.decode_tokens - 1.0)
        return np.asarray(self.prefill_seqs, dtype=float) + self.decode_rows

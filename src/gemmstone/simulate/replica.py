"""One replica as a simulator sees it: how long its steps take, what it holds, how it moves what it cannot hold."""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.engine.state import MOST_BLOCK
from gemmstone.simulate.step_tables import MOST_SEQUENCES, StepTable

BLOCK_SIZE = 16  # tokens, vLLM's default on GPUs (CacheConfig.block_size, vllm/config/cache.py, vLLM 0.33.0)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one engine runs at most. watermark_frac of the blocks stay free when something is admitted beside others.

    whole_prompts: a request starts when all it has to compute fits, not its first chunk alone; otherwise several long prompts
    take each other's room in turn (vLLM's scheduler_reserve_full_isl, its default; vllm-project/vllm, pull request 37307).
    """

    total_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int = 8192
    block_size: int = BLOCK_SIZE
    watermark_frac: float = 0.0
    whole_prompts: bool = True

    def __post_init__(self) -> None:
        """Raises BadRequest for limits under which nothing can run."""
        for name, value, most in (
            ("total_blocks", self.total_blocks, 1 << 40),
            ("max_num_seqs", self.max_num_seqs, MOST_SEQUENCES),
            ("max_num_batched_tokens", self.max_num_batched_tokens, 1 << 24),
            ("block_size", self.block_size, MOST_BLOCK),
        ):
            if not 1 <= value <= most:
                raise BadRequest(f"{name} must lie between 1 and {most}, not {value}")
        if not 0.0 <= self.watermark_frac < 1.0:
            raise BadRequest(f"watermark_frac must lie between 0 and 1, not {self.watermark_frac:g}")


@dataclass(frozen=True, kw_only=True)
class Swap:
    """How a request that is put back keeps its cache on the host: seconds for a block, for a call, blocks a call moves.

    overlap: copies run beside the step instead of before it. keep: what is on the host stays, so only new blocks travel.
    """

    block_s: float
    call_s: float = 0.0
    group_blocks: int = 1
    overlap: bool = False
    keep: bool = False
    host_blocks: int = 1 << 40


@dataclass(frozen=True, kw_only=True)
class Tier:
    """A lower place for cached prefixes: how many blocks it holds, and seconds to bring one back to the device."""

    blocks: int
    block_s: float


@dataclass(frozen=True, kw_only=True)
class Borrowed:
    """Blocks on other engines that this one can use: a step that reads them lasts longer, by step_s and by block_s for each."""

    blocks: int
    step_s: float = 0.0
    block_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Drafts:
    """Speculative decoding: tokens drafted for a step, and the chance that each is accepted after those before it."""

    tokens: int
    accept: float


@dataclass(frozen=True, kw_only=True)
class Handing:
    """The way of a prompt's cache from a prefill to a decode worker: seconds for an empty one, and for each token."""

    latency_s: float = 0.0
    token_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One engine. devices: how many times the joules of its steps count, standing_w: what it draws beside, all devices, while
    steps run; idle_w: while none does, None for the same.

    emit_steps: decode steps that a finished first token waits before it is sent. name: of its kind, in reports.
    """

    table: StepTable
    limits: Limits
    name: str = ""
    devices: float = 1.0
    standing_w: float = 0.0
    idle_w: float | None = None
    usd_per_hour: float | None = None
    emit_steps: float = 0.0
    token_s: float = 1.0  # what a token costs, to compare kinds of replica
    swap: Swap | None = None
    tiers: tuple[Tier, ...] = ()
    borrowed: Borrowed | None = None
    drafts: Drafts | None = None
    handing: Handing | None = None  # a worker of the prefill pool
    takes_over: bool = False  # a worker of the decode pool
    hit_frac: float = 0.0  # share of every prompt found in a cache, where prefixes are not hashed

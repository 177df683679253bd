"""What one user with a long context costs, in four metrics (arXiv:2405.08944): concurrency, prefill, decode, switching.

All four follow from the size of a session's cache:

    concurrency = (memory - weights) / cache            sessions whose cache stays on the device
    prefill     = (2 parameters tokens + attention FLOP) / peak FLOP/s
    decode      = answer tokens (weights + cache) / memory bandwidth
    switching   = 2 cache / bandwidth to the host       out when others take the place, and back

`peak` is that arithmetic on plain numbers. `cost` asks the same of a deployment, whose steps know their real parameters,
attention and, when calibrated, kernels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gemmstone.core.deployment import Step
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.system import System


class Session(NamedTuple):
    """What a user does: a prompt, then rounds of an answer and a pause to read it and to ask on."""

    prompt_tokens: float
    answer_tokens: float
    rounds: float = 1.0
    think_s: float = 0.0


class SessionCost(NamedTuple):
    """The four metrics: sessions at once, and seconds of a prompt, of one answer, of one switch to and fro."""

    concurrency: int
    prefill_s: float
    decode_s: float
    switch_s: float


def peak(
    *,
    session: Session,
    parameters: float,
    weight_bytes: float,
    kv_bytes_per_token: float,
    flop_per_s: float,
    bytes_per_s: float,
    memory_bytes: float,
    host_bytes_per_s: float,
    attention_flop: float = 0.0,
) -> SessionCost:
    """The metrics as the formulas say. The cache is that of the prompt; attention_flop is what a prompt costs beside products."""
    cache_bytes = session.prompt_tokens * kv_bytes_per_token
    return SessionCost(
        concurrency=max(0, math.floor((memory_bytes - weight_bytes) / cache_bytes)),
        prefill_s=(2.0 * parameters * session.prompt_tokens + attention_flop) / flop_per_s,
        decode_s=session.answer_tokens * (weight_bytes + cache_bytes) / bytes_per_s,
        switch_s=2.0 * cache_bytes / host_bytes_per_s,
    )


def cost(system: System, session: Session) -> SessionCost:
    """The metrics of one replica of a deployment. Raises BadRequest where the device's link to its host is not known."""
    host = system.cluster.device.host
    if host is None:
        raise BadRequest(
            f"no link between {system.cluster.device.slug} and its host is known: give link.host.bandwidth"
        )
    tokens = session.prompt_tokens + session.answer_tokens
    prompt = Step(prefill_seqs=1.0, prefill_tokens=session.prompt_tokens)
    decode = Step(decode_seqs=1.0, decode_context=session.prompt_tokens + session.answer_tokens / 2.0)
    return SessionCost(
        concurrency=math.floor(min(system.memory.sequences(tokens), 1e9)),
        prefill_s=float(system.timer.estimate(prompt).time_s[0]),
        decode_s=session.answer_tokens * float(system.timer.estimate(decode).time_s[0]),
        switch_s=2.0 * float(system.memory.sequence_bytes(session.prompt_tokens)) / host.bandwidth_bytes_per_s,
    )


def sessions_per_hour(session: Session, found: SessionCost, users: int) -> float:
    """Sessions that `users` at once finish in an hour on one replica that serves them one after the other.

    Users beyond the concurrency make every round begin with a switch. A replica that is always busy bounds the rate, as
    does the life of a session while its users think.
    """
    if users < 1 or session.rounds < 1:
        raise BadRequest("a session needs at least one user and one round")
    switches_s = session.rounds * found.switch_s if users > found.concurrency else 0.0
    busy_s = found.prefill_s + session.rounds * found.decode_s + switches_s
    life_s = busy_s + session.rounds * session.think_s
    return 3600.0 * min(users / life_s, 1.0 / busy_s)

"""Speculative decoding, round by round: which tokens stand, and how long drafting and verifying on two machines takes.

A draft proposes g tokens, the target looks at all of them at once. Token x, drafted with probability q(x) where the target has
p(x), stands with the chance min(1, p(x) / q(x)); the first that falls is drawn anew from what is left, max(p - q, 0), and
behind g that stand comes one more of the target's own (Leviathan and others, arXiv:2211.17192, algorithm 1). What comes out is
distributed as the target's own decoding, and equals it where both are greedy. With the draft on one machine and the target on
another, as in Dovetail (arXiv:2412.18934), a round takes

    t = g t_draft + t_verify(g + 1) + hand-overs
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest

Tokens = npt.NDArray[np.int64]
# Probabilities [sequences, vocabulary] of the token behind the first lengths[i] tokens of each row of tokens.
LanguageModel = Callable[[Tokens, Tokens], Array]
MOST_DRAFTED = 64


class Verdict(NamedTuple):
    """Of each sequence: how many drafted tokens stand, and the token of the target's own behind them."""

    accepted: Tokens
    follows: Tokens


class Decoded(NamedTuple):
    """Tokens [sequences, length], and by round how many sequences took part, drafted tokens looked at, and those that stood."""

    tokens: Tokens
    sequences: Tokens
    looked_at: Tokens
    accepted: Tokens


class Timeline(NamedTuple):
    """A sequence decoded in rounds: tokens, rounds, seconds in all and of drafting, verifying and handing over."""

    tokens: int
    rounds: int
    total_s: float
    draft_s: float
    verify_s: float
    transfer_s: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second."""
        return self.tokens / self.total_s


def acceptance(draft: Array, target: Array) -> Array:
    """The chance that a token drafted from one distribution stands before another, over the last axis: sum of min(q, p)."""
    chance: Array = np.minimum(draft, target).sum(axis=-1)
    return chance


def verify(drafted: Tokens, draft: Array, target: Array, rng: np.random.Generator) -> Verdict:
    """Which of the drafted tokens [n, g] stand, drawn from `draft` [n, g, V], before `target` [n, g + 1, V]."""
    count, width = drafted.shape
    rows, places = np.arange(count)[:, None], np.arange(width)[None, :]
    q, p = draft[rows, places, drafted], target[rows, places, drafted]
    stands = rng.random((count, width)) * q < p
    accepted = np.where(stands.all(axis=1), width, stands.argmin(axis=1)) if width else np.zeros(count, dtype=np.int64)
    each = np.arange(count)
    wanted = target[each, accepted]
    if width:
        left = np.maximum(wanted - draft[each, np.minimum(accepted, width - 1)], 0.0)
        wanted = np.where((accepted < width)[:, None], left, wanted)
    return Verdict(accepted.astype(np.int64), drawn(wanted, rng))


def drawn(weights: Array, rng: np.random.Generator) -> Tokens:
    """One token of each row of weights [n, V], which need not sum to 1."""
    cumulated = np.cumsum(weights, axis=-1)
    places: Tokens = (cumulated <= rng.random((len(weights), 1)) * cumulated[:, -1:]).sum(axis=-1)
    return places


def decode(
    target: LanguageModel, draft: LanguageModel, prompts: Tokens, length: int, *, drafted: int, seed: int = 0
) -> Decoded:
    """Sequences of `length` tokens behind prompts [n, width], with `drafted` tokens a round; 0 decodes without a draft."""
    if not 0 <= drafted <= MOST_DRAFTED or length < 1 or prompts.ndim != 2 or not prompts.shape[1]:
        raise BadRequest(f"speculation drafts 0 to {MOST_DRAFTED} tokens behind prompts of at least one")
    rng = np.random.default_rng(seed)
    count, width = prompts.shape
    tokens = np.zeros((count, width + length + drafted + 1), dtype=np.int64)
    tokens[:, :width] = prompts
    lengths = np.full(count, width, dtype=np.int64)
    rounds = []
    while len(going := np.flatnonzero(lengths < width + length)):
        own, at = tokens[going], lengths[going]
        each = np.arange(len(going))
        guesses = []
        for step in range(drafted):
            guesses.append(draft(own, at + step))
            own[each, at + step] = drawn(guesses[-1], rng)
        seen = np.stack([target(own, at + step) for step in range(drafted + 1)], axis=1)
        guessed = np.stack(guesses, axis=1) if guesses else np.zeros((len(going), 0, seen.shape[-1]))
        verdict = verify(own[each[:, None], at[:, None] + np.arange(drafted)], guessed, seen, rng)
        own[each, at + verdict.accepted] = verdict.follows
        tokens[going], lengths[going] = own, at + verdict.accepted + 1
        looked_at = np.minimum(verdict.accepted + 1, drafted).sum()
        rounds.append((len(going), looked_at, verdict.accepted.sum()))
    sequences, looked_at, accepted = np.array(rounds, dtype=np.int64).T
    return Decoded(tokens[:, width : width + length], sequences, looked_at, accepted)


def timeline(
    tokens: int,
    *,
    drafted: int,
    accept: float,
    draft_s: float,
    verify_s: float,
    transfer_s: float = 0.0,
    seed: int = 0,
) -> Timeline:
    """A sequence of at least so many tokens, each drafted one of which stands with the chance `accept` of its own.

    draft_s: of one drafted token; verify_s: of the target's pass over drafted + 1 tokens; transfer_s: of a round's hand-overs.
    """
    if tokens < 1 or not 0 <= drafted <= MOST_DRAFTED or not 0 <= accept <= 1:
        raise BadRequest(f"a timeline needs tokens, 0 to {MOST_DRAFTED} drafted a round, and a chance from 0 to 1")
    if min(draft_s, transfer_s) < 0 or verify_s <= 0:
        raise BadRequest("drafting and handing over take no negative time, and verifying takes some")
    rng = np.random.default_rng(seed)
    stands = rng.random((tokens, drafted)) < accept
    gained = 1 + np.cumprod(stands, axis=1).sum(axis=1) if drafted else np.ones(tokens, dtype=np.int64)
    made = np.cumsum(gained)
    rounds = int(np.searchsorted(made, tokens)) + 1
    spent = (rounds * drafted * draft_s, rounds * verify_s, rounds * transfer_s)
    return Timeline(int(made[rounds - 1]), rounds, sum(spent), *spent)

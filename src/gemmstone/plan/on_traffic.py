"""A plan on traffic: the formulas say which deployments are worth a simulation, simulations say which is best.

The search prices every deployment for a steady load and targets of means. In the order in which it ranks them they are simulated
at one rate after another (simulate.capacity), until none of the rest can win: what simulations leave of the formulas' promise
differs between deployments, and those that would win with the largest share seen so far, and a margin, are still tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest
from gemmstone.plan import trials
from gemmstone.plan.candidate import Candidate, Refusal
from gemmstone.plan.counts import sized
from gemmstone.plan.question import OBJECTIVES, Question, Sent, of_means
from gemmstone.plan.search import Found, counted, name_of, search, simplicity
from gemmstone.plan.traffic_document import misses
from gemmstone.plan.trials import Load, Prices
from gemmstone.simulate.capacity import GROWING, LEAST_STAYS, TURNED_AWAY, enough
from gemmstone.simulate.requests import Traffic
from gemmstone.simulate.routers import ROUTERS
from gemmstone.simulate.serving import Options
from gemmstone.simulate.traffic.asked import Asked
from gemmstone.simulate.traffic.scaled import is_offline, scaled

MOST_SIMULATED = 24
LEADERS = 3  # for which it is tried to run fewer requests at once
MARGIN = 1.25  # beyond the largest share of the formulas' promise seen so far, that a deployment is still given
SLACK = 1.1  # by which a steady load may miss a rate or a target and still be simulated
MOST_HITS = 0.95  # of the prompts, for the formulas
TIE = 0.012  # relative difference within which deployments are as good: a little more than rates are told apart
NOT_TRIED = "behind by the formulas, not simulated"
NOT_SUSTAINED = "rate not sustained on the traffic"
Progress = Callable[[int, int], None]


def prepared(question: Question, say: Callable[[str], None]) -> tuple[Question, Load]:
    """The question with the traffic it is about and its mean lengths as workload, and that traffic at any rate."""
    work = question.workload
    sent = question.traffic or Sent(
        input_tokens=round(work.input_tokens), output_tokens=round(work.output_tokens), length_spread=work.length_spread
    )
    if sent.router not in ROUTERS:
        raise BadRequest(f"unknown router {sent.router[:40]!r}: one of {', '.join(ROUTERS)}")
    asked = Asked(
        requests=sent.requests,
        input_tokens=sent.input_tokens,
        output_tokens=sent.output_tokens,
        length_spread=sent.length_spread,
        seed=sent.seed,
        repair=sent.repair,
        settings={},
        say=say,
    )
    offline = is_offline(sent.name)
    if offline and question.slo:
        raise BadRequest(f"{sent.name} asks for throughput alone: leave --slo out, or plan for mlperf-server")
    if question.objective == "latency" and question.rate is None:
        raise BadRequest("the latency of requests depends on how many come: give a --rate")
    if sent.requests == 0:
        raise BadRequest("no rate can be found with 0 requests: leave --requests out for as many as the targets need")
    at = scaled(sent.name, asked)
    first, second, longest, hits = _lengths(at(1.0, enough(question.slo)))
    load = Load(
        name=sent.name,
        at=at,
        input_tokens=first,
        output_tokens=second,
        longest_tokens=longest,
        hit_frac=hits,
        requests=sent.requests,
        offline=offline,
        options=Options(router=sent.router, seed=sent.seed),
    )
    work = Workload(input_tokens=first, output_tokens=second)
    return replace(question, traffic=sent, workload=work, longest_tokens=longest), load


def _lengths(traffic: Traffic) -> tuple[float, float, float, float]:
    """Mean prompt and answer, the longest of both together, and the share of prompts in blocks that came before."""
    parts = list(traffic.chunks())
    first = np.concatenate([part.input_tokens for part in parts]).astype(float)
    second = np.concatenate([part.output_tokens for part in parts]).astype(float)
    ids = np.concatenate([part.hash_ids for part in parts])
    again = (len(ids) - len(np.unique(ids))) * traffic.hash_tokens / float(first.sum())
    return float(first.mean()), float(second.mean()), float((first + second).max()), min(again, MOST_HITS)


def searched(
    question: Question,
    load: Load,
    economics: Prices,
    budget_usd_per_hour: float | None,
    progress: Progress = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Question, Found, list[str]]:
    """The question with its hardware counted, what was found on its traffic, and why devices fell out."""
    asked, left_out = sized(_by_formula(question, load), economics, budget_usd_per_hour)
    added = [spec for spec in asked.hardware if spec not in question.hardware]
    # With a budget as many devices as it pays for are taken, with a rate as many as the simulations say.
    open_ended = set(added) if question.rate is not None else set()
    found = _promising(asked, open_ended, economics)
    question = replace(question, hardware=asked.hardware)
    hunt = _Hunt(question, load, economics, open_ended)
    queue = sorted(found.ranked, key=lambda candidate: -hunt.goodness(candidate))
    made = hunt.improved(hunt.simulated(queue or [c for c in (found.nearest,) if c], progress))
    ranked = hunt.ranked([c for c in made if hunt.sustains(c)])
    refused = [Refusal(hunt.why(c), name_of(c)) for c in made if not hunt.sustains(c)] if queue else []
    refused += [Refusal(NOT_TRIED, name_of(c)) for c in queue[len(made) :]]
    rejected = dict(found.rejected)
    for reason, (count, example) in counted(refused).items():
        rejected[reason] = (rejected.get(reason, (0, ""))[0] + count, example)
    nearest = None if ranked else _nearest(question, made)
    if question.rate is not None:
        shown, rest = ranked[: question.top], ranked[question.top :]
        ranked = [hunt.counted(c) for c in shown] + rest
        nearest = trials.copies(question, nearest, load) if nearest else None
    for candidate in ranked[:1]:
        _too_short(candidate, load, say)
    found = replace(found, ranked=tuple(ranked), nearest=nearest, rejected=rejected, simulated=len(made))
    return question, found, left_out


def _too_short(candidate: Candidate, load: Load, say: Callable[[str], None]) -> None:
    """Warns of trials that ended before they could tell what lasts."""
    best = candidate.tried.capacity.best if candidate.tried else None
    if best is not None and not load.offline and best.stays < LEAST_STAYS:
        say(
            f"{best.requests:,} requests come within {best.requests / best.rate_per_s:.3g} s and each stays about "
            f"{best.spreads['e2e_s'].mean_s:.3g} s: too few to tell what is sustained; leave --requests out, or give more"
        )


def _by_formula(question: Question, load: Load) -> Question:
    """What the formulas are asked, a little less than what the simulations will be."""
    slo = {name: SLACK * bound_s for name, bound_s in of_means(question.slo).items()}
    rate = None if question.rate is None else question.rate / SLACK
    hits = max(question.prefix_hit_frac, load.hit_frac)
    return replace(question, slo=slo, rate=rate, prefix_hit_frac=hits, traffic=None)


def _promising(asked: Question, open_ended: set[str], economics: Prices) -> Found:
    """What the formulas find: for the rate on counted devices, for any on those whose number simulations decide."""
    closed = tuple(spec for spec in asked.hardware if spec not in open_ended)
    free = tuple(spec for spec in asked.hardware if spec in open_ended)
    parts = [search(replace(asked, hardware=closed), economics)] if closed else []
    parts += [search(replace(asked, hardware=free, rate=None), economics)] if free else []
    if len(parts) == 1:
        return parts[0]
    one, other = parts
    rejected = dict(one.rejected)
    for reason, (count, example) in other.rejected.items():
        rejected[reason] = (rejected.get(reason, (0, ""))[0] + count, rejected.get(reason, (0, example))[1])
    return Found(
        ranked=(*one.ranked, *other.ranked),
        priced=(*one.priced, *other.priced),
        nearest=one.nearest or other.nearest,
        rejected=rejected,
        searched=one.searched + other.searched,
    )


class _Hunt(NamedTuple):
    """What all simulations of a plan share. open_ended: hardware whose number of devices is theirs to find."""

    question: Question
    load: Load
    economics: Prices
    open_ended: set[str]

    def simulated(self, queue: Sequence[Candidate], progress: Progress) -> list[Candidate]:
        """The first of the queue, tried on the traffic, until no later one can win."""
        made: list[Candidate] = []
        most = min(len(queue), MOST_SIMULATED)
        share = 0.0  # the largest part of a promise that was kept
        for at, candidate in enumerate(queue[:most]):
            kept = [c for c in made if self.sustains(c)]
            if len(kept) >= self.question.top:
                best = max(map(self.goodness, kept))
                if self.goodness(candidate) * share * MARGIN < best:
                    break
            progress(at, most)
            found = self._tried(candidate)
            made.append(found)
            if self.sustains(found):
                share = max(share, self.goodness(found) / self.goodness(candidate))
        return made

    def improved(self, made: list[Candidate]) -> list[Candidate]:
        """The tried candidates, with the leading ones holding requests back where that serves the targets."""
        leading = self.ranked([c for c in made if self.sustains(c)]) or sorted(made, key=lambda c: -_rate(c))
        better = {
            id(c): trials.held_back(self.question, c, self.load, self.economics)
            for c in leading[:LEADERS]
            if not (c.tried and c.tried.open_ended)
        }
        return [better.get(id(c), c) for c in made]

    def _tried(self, candidate: Candidate) -> Candidate:
        """The candidate on the traffic; where its number of devices was left open, with the fewest that sustain the rate."""
        found = trials.tried(self.question, candidate, self.load, self.economics)
        if candidate.hardware not in self.open_ended:
            return found
        like = trials.copies(self.question, found, self.load).tried
        number = like.copies if like else 0
        if not number:
            return found
        if number != trials.parts(candidate.made):
            candidate = trials.resized(candidate, number, self.economics)
            found = trials.tried(self.question, candidate, self.load, self.economics, like)
        assert found.tried is not None
        own = replace(found.tried, open_ended=True, copies=number, copies_devices=trials.devices(candidate.made))
        return found._replace(tried=own)

    def counted(self, candidate: Candidate) -> Candidate:
        """The candidate with how many of its parts the rate needs."""
        known = candidate.tried is not None and candidate.tried.copies is not None
        return candidate if known else trials.copies(self.question, candidate, self.load)

    def goodness(self, candidate: Candidate) -> float:
        """The objective as a number of which more is better: by the formulas, or of a tried candidate as simulated.

        Where the number of devices follows from the rate, fewer or cheaper ones are what throughput asks for.
        """
        question, tried = self.question, candidate.tried
        metric, more = OBJECTIVES[question.objective]
        free = candidate.hardware in self.open_ended if tried is None else tried.open_ended
        if question.rate is not None and (
            question.objective == "cost" or (free and question.objective == "throughput")
        ):
            costs = candidate.usd_per_hour(self.economics)
            worth = float(trials.devices(candidate.made)) if costs is None else costs
            needed = question.rate / candidate.value("requests_per_s") if free and tried is None else 1.0
            return 1.0 / (worth * needed)
        if question.objective == "throughput" and tried is not None:
            return tried.capacity.rate_per_s * candidate.answer.workload.mean_output_tokens
        value = candidate.value(metric)
        return value if more else 1.0 / value

    def sustains(self, candidate: Candidate) -> bool:
        """Whether a tried candidate sustains the rate that is asked for, or any."""
        assert candidate.tried is not None
        return candidate.tried.capacity.rate_per_s >= (self.question.rate or math.ulp(0.0))

    def ranked(self, meeting: Sequence[Candidate]) -> list[Candidate]:
        """Best first; of those as good as equal the simpler one."""
        rest = sorted(meeting, key=lambda c: -self.goodness(c))
        ranked: list[Candidate] = []
        while rest:
            lead = self.goodness(rest[0])
            tied = [c for c in rest if self.goodness(c) >= lead * (1.0 - TIE)]
            ranked += sorted(tied, key=simplicity)
            rest = rest[len(tied) :]
        return ranked

    def why(self, candidate: Candidate) -> str:
        """What stands in the way of a tried candidate."""
        assert candidate.tried is not None
        if candidate.tried.capacity.rate_per_s > 0:
            return NOT_SUSTAINED
        missed = candidate.tried.shown.missed[0]
        return missed if missed in (GROWING, TURNED_AWAY) else f"{missed} over its target at any rate"


def _rate(candidate: Candidate) -> float:
    """The rate that a tried candidate sustains."""
    assert candidate.tried is not None
    return candidate.tried.capacity.rate_per_s


def _nearest(question: Question, made: Sequence[Candidate]) -> Candidate | None:
    """The tried candidate that sustains most, or whose worst miss of a target is smallest where none sustains anything."""

    def distance(candidate: Candidate) -> tuple[float, float]:
        found = candidate.tried
        assert found is not None
        ratios = [ratio for _, ratio in misses(question, candidate)]
        return (-found.capacity.rate_per_s, max(ratios, default=math.inf))

    return min(made, key=distance, default=None)

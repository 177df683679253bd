"""Every measured value beside what is predicted for its case, with the 80% band of the prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gemmstone.catalog import device_files
from gemmstone.core.errors import BadRequest, GemmstoneError
from gemmstone.predict.economics import SCOPES
from gemmstone.predict.money import Money
from gemmstone.simulate import rows
from gemmstone.simulate.inputs import settled
from gemmstone.simulate.metrics import METRICS, Answer
from gemmstone.simulate.pool_metrics import respond
from gemmstone.simulate.scenario import Scenario, load_model, made
from gemmstone.validate import kernels
from gemmstone.validate.facts import Fact


@dataclass(frozen=True, kw_only=True)
class Check:
    """One measured value, SI, and its prediction with band; `problem` says why there is none. Names are resolved ones."""

    fact: Fact
    metric: str
    measured: float
    device: str
    engine: str
    model: str
    precision: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    problem: str = ""

    @property
    def answered(self) -> bool:
        """Whether there is a prediction."""
        return not self.problem

    @property
    def ratio(self) -> float:
        """Predicted over measured; NaN without a prediction."""
        return self.value / self.measured

    @property
    def error(self) -> float:
        """|predicted / measured - 1|; NaN without a prediction."""
        return abs(self.ratio - 1.0)

    @property
    def inside(self) -> bool:
        """Whether the measured value lies in the predicted 80% band."""
        return self.low <= self.measured <= self.high


def checks(facts: Iterable[Fact], fidelity: str = "calibrated") -> list[Check]:
    """A check for every measured value, in the order of the facts; a case without an answer stops no other."""
    refused: dict[str, BadRequest] = {}  # a model that is nowhere to be found is looked for on the Hub once
    return [check for fact in facts for check in _checks(fact, fidelity, refused)]


def _checks(fact: Fact, fidelity: str, refused: dict[str, BadRequest]) -> list[Check]:
    try:
        if kernels.is_kernel(fact.row):
            return _kernel(fact, fidelity)
        asked = _asked(fact, fidelity, refused)
        return _compared(fact, respond(made(asked), asked.workload, _money(fact.row).economics))
    except GemmstoneError as error:
        return _unanswered(fact, str(error))
    except Exception as error:  # whatever one case brings about, the others are compared
        return _unanswered(fact, f"cannot be computed: {type(error).__name__}: {error}")


def _money(row: Mapping[str, str]) -> Money:
    """Whose energy was measured: the devices' alone where a row does not say."""
    scope = row.get("energy_scope", "").strip() or "device"
    if scope not in SCOPES:
        raise BadRequest(f"unknown energy_scope {scope[:40]!r}: one of {', '.join(SCOPES)}")
    return Money(energy_scope=scope)


def _asked(fact: Fact, fidelity: str, refused: dict[str, BadRequest]) -> Scenario:
    scenario = rows.scenario(fact.row, fidelity)
    if scenario.model in refused:
        raise refused[scenario.model]
    try:
        load_model(scenario.model)
    except BadRequest as error:
        refused[scenario.model] = error
        raise
    return settled(scenario)


def _compared(fact: Fact, answer: Answer) -> list[Check]:
    system = answer.system
    labels = (system.cluster.device.slug, system.engine.name, system.model.name, system.deployment.weights)
    found = []
    for name in fact.measured:
        metric = answer.metrics.get(name)
        if metric is None:
            what = "is not known for this device" if name in METRICS else "is no metric of predict"
            found.append(_check(fact, name, labels, problem=f"{name} {what}"))
            continue
        value, low, high = (float(part[0]) for part in (metric.value, metric.low, metric.high))
        found.append(_check(fact, name, labels, value=value, low=low, high=high))
    return found


def _kernel(fact: Fact, fidelity: str) -> list[Check]:
    timed = kernels.timed(fact.row, fidelity)
    labels = (timed.device, "", "", timed.dtype)
    found = []
    for name in fact.measured:
        if name not in kernels.METRICS:
            problem = f"{name} is not computed for a kernel: {' or '.join(kernels.METRICS)}"
            found.append(_check(fact, name, labels, problem=problem))
            continue
        value, low, high = timed.metric(name)
        found.append(_check(fact, name, labels, value=value, low=low, high=high))
    return found


def _unanswered(fact: Fact, problem: str) -> list[Check]:
    labels = _written(fact.row)
    problem = " ".join(problem.split())
    return [_check(fact, name, labels, problem=problem) for name in fact.measured]


def _check(
    fact: Fact,
    metric: str,
    labels: tuple[str, str, str, str],
    *,
    value: float = math.nan,
    low: float = math.nan,
    high: float = math.nan,
    problem: str = "",
) -> Check:
    device, engine, model, precision = labels
    return Check(
        fact=fact,
        metric=metric,
        measured=fact.measured[metric],
        device=device,
        engine=engine,
        model=model,
        precision=precision,
        value=value,
        low=low,
        high=high,
        problem=problem,
    )


def _written(row: Mapping[str, str]) -> tuple[str, str, str, str]:
    """Names as the row has them, the device's as the catalogue does where it knows it."""
    device = row.get("hardware", "")
    try:
        device = device_files.cluster(device, None).device.slug
    except GemmstoneError:
        device = device[:60]
    precision = row.get("weights") or row.get("dtype", "")
    return device, row.get("engine", "")[:60], row.get("model", "")[:60], precision[:60]

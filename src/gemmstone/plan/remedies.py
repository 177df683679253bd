"""Where nothing fits: the narrower weights, the larger number of the same devices, or the offload with which it would."""

from __future__ import annotations

from dataclasses import replace

from gemmstone.catalog import engine_files
from gemmstone.catalog.engine_files import Engine
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Cluster
from gemmstone.core.model import Model
from gemmstone.graph.memory import memory
from gemmstone.graph.offloading import ways_out
from gemmstone.plan.layouts import LAST_RESORT_WEIGHTS, NARROWER_WEIGHTS, choices, narrower
from gemmstone.plan.question import Question, common
from gemmstone.predict.deploy import Choice, resolve
from gemmstone.simulate.scenario import Hardware, load_cluster, load_model
from gemmstone.simulate.steady import lengths

MULTIPLES = (1, 2, 4, 8, 16, 32)  # of the devices given
MOST_HARDWARE = 3  # choices looked at; more would not fit a line


def would_fit(question: Question) -> list[str]:
    """What would hold model and one request, a phrase a hardware choice: int4 weights on 4xh100-sxm. May be empty."""
    model = load_model(question.model)
    engine = engine_files.find(question.engines[0])
    phrases = []
    for spec in question.hardware[:MOST_HARDWARE]:
        cluster = load_cluster(Hardware(spec, None, question.edits))
        formats = narrower(model, cluster, engine, (*NARROWER_WEIGHTS, *LAST_RESORT_WEIGHTS))
        fewest = 0
        for weights in ((question.weights or (None,))[0], *formats[-1:]):
            found = next((size for size in _larger(cluster) if _fits(question, model, size, engine, weights)), None)
            if found is not None and found.num_devices != fewest:
                fewest = found.num_devices
                shown = f"{weights} weights" if weights else "the checkpoint"
                phrases.append(f"{shown} on {found.num_devices}x{found.device.slug}")
        phrases += _offloaded(question, model, cluster, engine)
    return list(dict.fromkeys(phrases))


def _offloaded(question: Question, model: Model, cluster: Cluster, engine: Engine) -> list[str]:
    """Techniques that keep weights behind the devices as given."""
    try:
        run = resolve(model, cluster, engine, Choice(weights=(question.weights or (None,))[0]))
    except BadRequest:
        return []
    return [f"{way} on {cluster.num_devices}x{cluster.device.slug}" for way in ways_out(model, cluster.device, run)]


def _larger(cluster: Cluster) -> list[Cluster]:
    return [replace(cluster, num_devices=cluster.num_devices * factor) for factor in MULTIPLES]


def _fits(question: Question, model: Model, cluster: Cluster, engine: Engine, weights: str | None) -> bool:
    size = lengths(question.workload, question.prefix_hit_frac)
    tried = (weights,) if weights else ()
    for choice in choices(model, cluster, engine, tried, question.kv_caches, common(question)):
        if choice.weights != weights:
            continue
        try:
            run = resolve(model, cluster, engine, choice)
        except BadRequest:
            continue
        room = memory(model, cluster.device, run)
        if room.fits and room.holds(size.prompt + size.output):
            return True
    return False

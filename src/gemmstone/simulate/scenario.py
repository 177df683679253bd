"""One case as a user states it: names and numbers, checked, and made into a System and a Workload."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from gemmstone.catalog import calibration_files, device_files, engine_files, model_files
from gemmstone.catalog.device_edit import check_known
from gemmstone.core.calibration import EngineFit
from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.hardware import Cluster
from gemmstone.core.model import Model
from gemmstone.graph.families import build_model
from gemmstone.predict import power
from gemmstone.predict.deploy import MAX_STEP_TOKENS, Choice, resolve
from gemmstone.predict.pricing import LADDERS, Pricing
from gemmstone.simulate.pools import PoolChoice, Pools, PoolsChoice, same_formats, transfer_link
from gemmstone.simulate.system import System, assemble

MODES = ("concurrency", "rate", "batch", "offline")
STRETCHED = 0.95  # memory fraction that people set by hand where an engine's default leaves no room for the weights
MAX_TOKENS = 100_000_000
MAX_LOAD = 10_000_000.0
MAX_IMAGES = 10_000  # of a prompt
MAX_PIXELS = 16_384  # of a side
COUNTED = re.compile(r"\s*(\d+)\s*[xX×*]\s*", re.ASCII)  # of devices, in front of a name


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A prediction as it is asked for: names resolved later, `choice` and `workload` already numbers."""

    model: str
    hardware: str
    num_devices: int | None = None
    engine: str = "generic"
    choice: Choice = Choice()
    workload: Workload = Workload(input_tokens=1024, output_tokens=128)
    fidelity: str = "calibrated"
    edits: tuple[str, ...] = ()
    pools: PoolsChoice | None = None


def check_workload(work: Workload) -> None:
    """Raises BadRequest for lengths or loads that no one can mean."""
    if work.mode not in MODES:
        raise BadRequest(f"unknown mode {work.mode!r}: one of {', '.join(MODES)}")
    for name, value, least, most in (
        ("input_tokens", work.input_tokens, 1, MAX_TOKENS),
        ("output_tokens", work.output_tokens, 1, MAX_TOKENS),
        ("length_spread", work.length_spread, 0, 0.999),
        ("requests_per_slot", work.requests_per_slot, 0, MAX_LOAD),
        ("images", work.images, 0, MAX_IMAGES),
        ("the width of the images", work.image_width, 1, MAX_PIXELS),
        ("the height of the images", work.image_height, 1, MAX_PIXELS),
    ):
        if not (math.isfinite(value) and least <= value <= most):
            raise BadRequest(f"{name} must lie between {least:g} and {most:g}, not {value:g}")
    if 0 < work.requests_per_slot < 1:
        raise BadRequest(f"requests_per_slot must be at least 1, not {work.requests_per_slot:g}; 0 for a steady state")
    if work.output_tokens * (1 - work.length_spread) < 1 or work.input_tokens * (1 - work.length_spread) < 1:
        raise BadRequest(f"a length_spread of {work.length_spread:g} makes the shortest request shorter than one token")
    if work.mode != "offline" and not (math.isfinite(work.load) and 0 < work.load <= MAX_LOAD):
        raise BadRequest(f"the {work.mode} must be a positive number up to {MAX_LOAD:g}, not {work.load:g}")
    if work.mode in ("concurrency", "batch") and work.load < 1:
        raise BadRequest(f"the {work.mode} must be at least 1, not {work.load:g}")


def made(scenario: Scenario) -> System | Pools:
    """What a scenario describes: one kind of worker, or pools of two."""
    return system(scenario) if scenario.pools is None else pools(scenario, scenario.pools)


def pools(scenario: Scenario, asked: PoolsChoice) -> Pools:
    """The disaggregated system a scenario describes; every worker of a pool is a system of its own."""
    whole = asked.prefill.num_devices + asked.decode.num_devices
    if scenario.num_devices is not None and scenario.num_devices != whole:
        raise BadRequest(
            f"{asked.prefill.text()} and {asked.decode.text()} make {whole} devices, but {scenario.num_devices} are given"
        )
    for name in ("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel", "attention_dp"):
        if getattr(scenario.choice, name) is not None:
            raise BadRequest(f"pools bring their own degrees: leave {name} out")
    counted = COUNTED.match(scenario.hardware)
    if counted and load_cluster(Hardware(scenario.hardware, None, scenario.edits)).num_devices != whole:
        raise BadRequest(f"{asked.prefill.text()} and {asked.decode.text()} make {whole} devices, not {counted[1]}")
    workers = [_worker(scenario, pool) for pool in (asked.prefill, asked.decode)]
    one, other = (worker.cluster.device for worker in workers)
    reach = replace(workers[0].cluster, num_devices=whole)
    made = Pools(
        prefill=workers[0],
        prefill_workers=asked.prefill.workers,
        decode=workers[1],
        decode_workers=asked.decode.workers,
        link=transfer_link(asked.link, one, other, reach),
    )
    if same_formats(made):
        raise BadRequest(f"{same_formats(made)}: give --kv")
    return made


def _worker(scenario: Scenario, pool: PoolChoice) -> System:
    choice = replace(
        scenario.choice,
        tensor_parallel=pool.tensor_parallel,
        pipeline_parallel=pool.pipeline_parallel,
        attention_dp=pool.attention_dp,
        expert_parallel=pool.expert_parallel,
        max_num_seqs=scenario.choice.max_num_seqs if pool.max_num_seqs is None else pool.max_num_seqs,
    )
    name = pool.device or COUNTED.sub("", scenario.hardware)
    return system(replace(scenario, hardware=name, num_devices=pool.worker_devices, choice=choice, pools=None))


def check_fidelity(name: str) -> None:
    """Raises BadRequest for a fidelity that no ladder of predict.pricing has."""
    if name not in LADDERS:
        raise BadRequest(f"unknown fidelity {name!r}: one of {', '.join(LADDERS)}")


def system(scenario: Scenario) -> System:
    """The system a scenario describes; equal descriptions share one."""
    check_fidelity(scenario.fidelity)
    hardware = Hardware(scenario.hardware, scenario.num_devices, scenario.edits)
    version = scenario.choice.engine_version if scenario.fidelity == "measured" else ""
    style = Style(scenario.engine, era(scenario), scenario.fidelity, version)
    return _system(scenario.model, hardware, style, _choice(scenario))


def _choice(scenario: Scenario) -> Choice:
    """What was chosen; an engine without a scheduler takes all prompts of a batch in one step, whose tensors are no more."""
    choice, workload = scenario.choice, scenario.workload
    whole = engine_files.find(scenario.engine).scheduler == "static" and workload.mode == "batch"
    if not whole or choice.max_num_batched_tokens is not None:
        return choice
    tokens = math.ceil(workload.load * (workload.input_tokens + workload.image_tokens))
    return replace(choice, max_num_batched_tokens=min(max(tokens, 1), MAX_STEP_TOKENS))


def era(scenario: Scenario) -> str:
    """Which generation of an engine is meant: static batches were measured with the offline scripts of 2024.

    Those schedule, sample and detokenise between steps in the foreground; a named version, or any other mode, means the
    servers of 2025, or the generation of that version where it was fitted apart. So does a device slower than any that an
    engine's scripts were measured on, where its file says so.
    """
    version, engine = scenario.choice.engine_version, engine_files.find(scenario.engine)
    if scenario.workload.mode == "batch" and not version:
        hardware = Hardware(scenario.hardware, scenario.num_devices, scenario.edits)
        bandwidth = load_cluster(hardware).device.memory_bandwidth_bytes_per_s
        return "static" if bandwidth >= engine.static_from_bytes_per_s else ""
    return calibration_files.era(engine.name, version)


def limited(made: System | Pools) -> System | Pools:
    """The same deployment, of one kind of worker or two, at the physical bound."""
    if isinstance(made, Pools):
        return replace(made, prefill=at_the_limit(made.prefill), decode=at_the_limit(made.decode))
    return at_the_limit(made)


def at_the_limit(made: System) -> System:
    """The same deployment at the physical bound."""
    return assemble(
        made.model,
        made.cluster,
        made.engine,
        made.deployment,
        pricing=Pricing(cluster=made.cluster, engine=made.engine.name, fidelity="limit"),
    )


class Hardware(NamedTuple):
    """Devices as asked for: a name, a count that the name may carry instead, --set edits."""

    name: str
    num_devices: int | None
    edits: tuple[str, ...] = ()


class Style(NamedTuple):
    """How prices are formed: whose kernels, of which generation, at which fidelity; and whose measurements, where it tells."""

    engine: str
    era: str
    fidelity: str
    version: str = ""


@lru_cache(maxsize=512)
def _system(model_name: str, hardware: Hardware, style: Style, choice: Choice) -> System:
    model = load_model(model_name)
    cluster = load_cluster(hardware)
    engine = engine_files.find(style.engine)
    run, prices = resolve(model, cluster, engine, choice), pricing(hardware, style)
    try:
        return assemble(model, cluster, engine, run, pricing=prices, advise=True)
    except NoAnswer:
        if choice.gpu_memory_utilization is not None or run.gpu_memory_utilization >= STRETCHED:
            raise
    try:
        return assemble(model, cluster, engine, replace(run, gpu_memory_utilization=STRETCHED), pricing=prices)
    except NoAnswer:
        # the failure at the engine's own default
        return assemble(model, cluster, engine, run, pricing=prices, advise=True)


@lru_cache(maxsize=256)
def load_model(name: str) -> Model:
    """The Model of a name, id or path."""
    return build_model(model_files.find(name))


@lru_cache(maxsize=256)
def load_cluster(hardware: Hardware) -> Cluster:
    """The cluster of a name, with --set edits applied to its device."""
    cluster = device_files.cluster(hardware.name, hardware.num_devices)
    device = cluster.device
    for change in hardware.edits:
        device = device_files.edit(device, change)
    check_known(device)
    power.check_cap(device)
    return replace(cluster, device=device)


@lru_cache(maxsize=256)
def pricing(hardware: Hardware, style: Style) -> Pricing:
    """The prices of operations on some hardware in some style; systems that differ in nothing else share them."""
    engine = engine_files.find(style.engine)
    if style.fidelity == "limit":  # no engine's habits belong to the physical bound
        fitted = EngineFit()
    else:
        device = load_cluster(hardware).device
        fitted = calibration_files.engine_fit(engine.name, style.era, device.slug)
        if not fitted.measured:  # what was measured here holds the launches already
            fitted = replace(fitted, launch_s=fitted.launch_s or engine.launch_s)
    return Pricing(
        cluster=load_cluster(hardware),
        engine=engine.name,
        fidelity=style.fidelity,
        engine_fit=fitted,
        engine_version=style.version,
    )

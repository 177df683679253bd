"""Serving engines as TOML files, one each: how they schedule, their defaults, what they accept, how they are started.

Every table of a file names a key of [sources] (the launch options: "arguments"). What an engine adds to its kernels is fitted, and lies
in calibration_engines.json.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from gemmstone.core import units
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.core.lookup import fold, unknown

DIRECTORY = Path(__file__).parent / "engines"
SCHEDULERS = ("mixed", "prefill-first", "static")
SPLITS = ("tensor", "layer")  # how several devices share one copy of a model: slices of each matrix, or whole layers
FRACTIONS_OF = ("total", "free")
EVERY = "*"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Default token budget of a step on devices with at least so much memory, some architectures excepted."""

    at_least_bytes: float
    tokens: int
    excepted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How the engine is started: the first words of the command, and its option for each of our concepts.

    flags take a value and switches do not; both hold the options a launch may need. quantization maps a weight format to
    the option value with which the engine makes it from a bf16 checkpoint; kv_cache maps a cache format to its
    option value, dtype the format of what is not quantised. router starts what stands in front of workers that share
    prompts and generation among them, "" where there is none.
    """

    template: tuple[str, ...]
    port: int
    flags: tuple[str, ...]
    switches: tuple[str, ...]
    options: Mapping[str, str]
    quantization: Mapping[str, str]
    kv_cache: Mapping[str, str]
    dtype: Mapping[str, str]
    router: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Container:
    """How the engine runs in a container: its image by platform, where it says that it is well, and where it keeps models.

    An image may hold "{version}", or "TAG" where no release is known. program takes the place of the command's first word
    where the image does not have that on its path; cache is the variable that names the folder of downloaded models.
    """

    images: Mapping[str, str]
    health: str = "/health"
    program: str = ""
    cache: str = "HF_HOME"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One serving engine as its published sources describe it.

    scheduler is "mixed" (prefill chunks and decodes share a step), "prefill-first" (a step is one or the other, prompts
    go first) or "static" (a batch is started and finished together). splits says how devices share a model: "tensor"
    slices, or whole "layer"s one device after the other. memory_fraction is what weights, cache and
    workspace (memory_fraction_of "total") or the cache alone (of what is "free" after loading) may take;
    reserve_bytes stay untouched. weights and kv_cache map a number format to the architectures it is accepted on;
    no_backend names architectures that "*" leaves out; computes_int8 those where products of int8 weights run in int8
    rather than after unpacking. launch_s is the host's time for one operation where no CUDA graph replays it, 0 where it is
    not known. narrow_recipes is the format that the engine's own recipes for 8 bits and less take for the cache, and for
    attention beside experts in 4 bits; empty where they leave both in the model's. uneven_heads: a tensor-parallel degree need
    not divide the attention heads. static_from_bytes_per_s is the memory bandwidth from which on static batches are those of
    the measured scripts; slower devices run as they serve.
    """

    name: str
    title: str
    version: str
    aliases: tuple[str, ...]
    scheduler: str
    splits: str
    cuda_graphs: bool
    launch_s: float
    max_num_batched_tokens: int
    budgets: tuple[Budget, ...]
    memory_fraction: float
    memory_fraction_of: str
    reserve_bytes: float
    stream_interval_tokens: int
    receive_interval_steps: int
    weights: Mapping[str, tuple[str, ...]]
    kv_cache: Mapping[str, tuple[str, ...]]
    no_backend: tuple[str, ...]
    computes_int8: tuple[str, ...]
    uneven_heads: bool
    narrow_recipes: str
    static_from_bytes_per_s: float
    launch: Launch
    container: Container
    sources: Mapping[str, str]

    def token_budget(self, device: Device) -> int:
        """The engine's own default for the tokens of one step on this device."""
        for budget in self.budgets:
            if device.memory_bytes >= budget.at_least_bytes and fold(device.architecture) not in budget.excepted:
                return budget.tokens
        return self.max_num_batched_tokens

    def accepts_weights(self, number_format: str, architecture: str) -> bool:
        """Whether the engine runs weights of this format on a device of this architecture."""
        left_out = _accepts({EVERY: self.no_backend}, number_format, architecture)
        return not left_out and _accepts(self.weights, number_format, architecture)

    def accepts_kv_cache(self, number_format: str, architecture: str) -> bool:
        """Whether the engine keeps a KV cache of this format on a device of this architecture."""
        return _accepts(self.kv_cache, number_format, architecture)

    def computes_int8_on(self, architecture: str) -> bool:
        """Whether the engine multiplies int8 weights by int8 activations on a device of this architecture."""
        return _accepts({"int8": self.computes_int8}, "int8", architecture)


def published() -> list[str]:
    """Names of all engines described, sorted."""
    return sorted(path.stem for path in DIRECTORY.glob("*.toml"))


def find(name: str) -> Engine:
    """The engine called `name`, an alias or another spelling of it; BadRequest with suggestions otherwise."""
    folded = fold(name)
    if folded in published():
        return _read(folded)
    names = _aliases()
    if folded not in names:
        raise unknown("engine", name, published())
    return _read(names[folded])


def _accepts(table: Mapping[str, tuple[str, ...]], number_format: str, architecture: str) -> bool:
    architectures = table.get(number_format, table.get(EVERY, ()))
    folded = fold(architecture)
    return EVERY in architectures or any(folded == a or folded.startswith(a + "-") for a in architectures)


@cache
def _aliases() -> dict[str, str]:
    return {fold(alias): name for name in published() for alias in (name, *_read(name).aliases)}


@cache
def _read(name: str) -> Engine:
    path = DIRECTORY / f"{name}.toml"
    with path.open("rb") as file:
        try:
            return _engine(tomllib.load(file))
        except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
            raise BadRequest(f"{path.name} does not describe an engine: {error!r}") from error


def _engine(table: Mapping[str, Any]) -> Engine:
    sources = dict(table["sources"])
    sections = {name: table[name] for name in ("scheduler", "batch", "memory", "streaming")}
    sections |= {name: table[name] for name in ("host", "static") if name in table}
    for name, section in sections.items():
        if section["source"] not in sources:
            raise ValueError(f"[{name}] names the source {section['source']!r}, which [sources] does not explain")
    scheduler, batch, memory, streaming = (sections[name] for name in ("scheduler", "batch", "memory", "streaming"))
    return Engine(
        name=table["name"],
        title=table["title"],
        version=table["version"],
        aliases=tuple(table["aliases"]),
        scheduler=_one_of(scheduler["kind"], SCHEDULERS),
        splits=_one_of(table["splits"], SPLITS),
        cuda_graphs=bool(table["cuda_graphs"]),
        launch_s=units.parse(sections["host"]["launch"], "s") if "host" in sections else 0.0,
        max_num_batched_tokens=int(batch["max_num_batched_tokens"]),
        budgets=tuple(_budget(row) for row in batch["by_memory"]),
        memory_fraction=float(memory["fraction"]),
        memory_fraction_of=_one_of(memory["of"], FRACTIONS_OF),
        reserve_bytes=units.parse(memory["reserve"], "bytes"),
        stream_interval_tokens=int(streaming["interval_tokens"]),
        receive_interval_steps=int(streaming["receive_interval_steps"]),
        weights={key: tuple(value) for key, value in table["weights"].items()},
        kv_cache={key: tuple(value) for key, value in table["kv_cache"].items()},
        no_backend=tuple(table.get("no_backend", ())),
        computes_int8=tuple(table.get("computes_int8", ())),
        uneven_heads=bool(table.get("uneven_heads", False)),
        narrow_recipes=str(table.get("narrow_recipes", "")),
        static_from_bytes_per_s=units.parse(sections["static"]["bandwidth"], "bytes_per_s")
        if "static" in sections
        else 0.0,
        launch=_launch(table["launch"]),
        container=_container(table.get("container", {"images": {}}), sources),
        sources=sources,
    )


def _budget(row: Mapping[str, Any]) -> Budget:
    return Budget(
        at_least_bytes=units.parse(row["at_least"], "bytes"),
        tokens=int(row["tokens"]),
        excepted=tuple(row.get("except", ())),
    )


def _launch(table: Mapping[str, Any]) -> Launch:
    values: dict[str, Any] = _known(Launch, table)
    for words in ("template", "flags", "switches", "router"):
        values[words] = tuple(values.get(words, ()))
    return Launch(**values)


def _container(table: Mapping[str, Any], sources: Mapping[str, str]) -> Container:
    if table["images"] and "container" not in sources:
        raise ValueError("[container] has images that [sources] does not explain")
    return Container(**_known(Container, table))


def _known(kind: type, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table as arguments of a dataclass; a key that it does not have is a misspelling."""
    extra = set(table) - {field.name for field in fields(kind)}
    if extra:
        raise ValueError(f"unknown keys {sorted(extra)} in [{kind.__name__.lower()}]")
    return dict(table)


def _one_of(value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return value

"""Finding a model's description: a config.json by path, a shipped one by name, or one on the Hugging Face Hub.

Shipped files lie in catalog/models/, one a model, named by its short name. They hold the facts of the Hub's config.json
in the Hub's spelling and one key of ours, "gemmstone", with the id, other names, sources, published parameter counts and,
where nobody can download the weights, "withheld": why.
Everything read here comes from outside or may be edited: sizes are bounded, nothing is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from gemmstone.catalog import hub
from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import fold, unknown

FOLDER = Path(__file__).parent / "models"
MAX_BYTES = 1_000_000
MAX_NAME = 300

# Words of a model name that say how its weights are stored: the canonical format, and the quantization_config that a
# checkpoint of that name usually carries (the file of a model may name the exact one for known checkpoints).
WEIGHT_WORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp8": ("fp8", {"quant_method": "fp8"}),
    "nvfp4": ("nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
    "fp4": ("nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
    "awq": ("int4", {"quant_method": "awq", "bits": 4}),
    "gptq": ("int4", {"quant_method": "gptq", "bits": 4}),
    "int4": ("int4", {"quant_method": "gptq", "bits": 4}),
    "int8": ("int8", {"quant_method": "gptq", "bits": 8}),
    "mxfp4": ("mxfp4", {"quant_method": "mxfp4"}),
    "bf16": ("bf16", {}),
}
# Words that change the training of a model, not its architecture.
VARIANT_WORDS = frozenset(
    ["instruct", "base", "chat", "hf", "it", "thinking", "dynamic", "gguf", "preview", "terminus", "meta", "kv"]
)
_DATE = re.compile(r"\d{4}(\d{2}){0,2}|v0\.\d")  # -0528, -2507, -20241022, Mistral's -v0.2


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """The description of a model before it is understood: its config and where that comes from.

    `weights` is the canonical number format that the asked name implies ("" when it implies none); `published` holds the
    parameter counts of the model's authors (total, active, their sources), empty when the file is not a shipped one. `fp8`
    is the flavour of the 8-bit checkpoint that the model's own organisation publishes, "" where none is on file.
    """

    name: str
    config: Mapping[str, Any]
    source: str
    id: str
    weights: str = ""
    fp8: str = ""
    published: Mapping[str, Any] = field(default_factory=dict)
    kv_bytes_per_token: float | None = None
    withheld: str = ""  # why nobody can download the weights, empty when they are published


def withheld(model_id: str) -> str:
    """Why the weights of a shipped model cannot be downloaded; empty for published ones, paths and unknown ids."""
    if model_id.startswith((".", "/", "~")) or _existing(model_id) is not None:
        return ""
    shipped = _shipped(model_id)
    return shipped.withheld if shipped else ""


def find(name: str) -> ModelFile:
    """The model that `name` means: a path, a shipped id, alias or short name, a variant of one, or else a Hub id.

    Raises BadRequest when nothing matches or the file cannot be read as a config.json.
    """
    asked = name.strip()
    if not asked or len(asked) > MAX_NAME or not asked.isprintable():
        raise BadRequest("a model is a Hugging Face id, a shipped short name, or a path to a config.json")
    path = _existing(asked)
    if path is not None:
        return _from_path(path)
    shipped = _shipped(asked)
    if shipped is not None:
        return shipped
    if asked.endswith(".json") or asked.startswith((".", "/", "~", "\\")):
        raise BadRequest(f"no file at {asked[:120]!r}: give the path of an existing config.json or its folder")
    if "/" in asked:
        return _from_hub(asked)
    raise unknown("model", asked, short_names())


def published() -> Iterator[ModelFile]:
    """All shipped models by short name."""
    for short in short_names():
        yield _load_shipped(short)


def short_names() -> list[str]:
    """Short names of the shipped models, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a config file of at most 1 MB; BadRequest otherwise."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise BadRequest(f"{str(path)!r} is larger than {MAX_BYTES:,} bytes, which no config.json is")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRequest(f"{str(path)!r} is not JSON: a Hugging Face config.json is expected") from None
    if not isinstance(config, dict):
        raise BadRequest(f"{str(path)!r} holds no JSON object: a Hugging Face config.json is expected")
    return config


def _existing(asked: str) -> Path | None:
    """The config file at a path, None when there is nothing there.

    A bare word is a name rather than a path, so that a stray folder called `gpt2` does not hide the model; write ./gpt2.
    """
    path = Path(asked).expanduser()
    try:
        if path.is_dir():
            if (path / "config.json").is_file():
                return path / "config.json"
            if asked.startswith((".", "/", "~")):
                raise BadRequest(f"the folder {asked[:120]!r} has no config.json")
            return None
        return path if path.exists() and ("/" in asked or asked.endswith(".json")) else None
    except OSError:
        return None


def _from_path(path: Path) -> ModelFile:
    config = read_config(path)
    meta = config.pop("gemmstone", {})
    beside = path.parent / "hf_quant_config.json"  # where NVIDIA's ModelOpt puts what others put into config.json
    if path.name == "config.json" and "quantization_config" not in config and beside.is_file():
        config["quantization_config"] = {"quant_method": "modelopt", **read_config(beside)}
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    declared = meta.get("id") if isinstance(meta, dict) else None
    model_id = declared if isinstance(declared, str) else str(path)
    return ModelFile(name=name, config=config, source=str(path), id=model_id)


def _from_hub(asked: str) -> ModelFile:
    path = hub.config_path(asked, MAX_BYTES)
    config = read_config(path)
    name = asked.rsplit("/", 1)[1]
    words = _weight_words(fold(name).split("-"))
    weights, usual = WEIGHT_WORDS[words[0]] if words else ("", {})
    if usual and config.get("quantization_config") is None:
        config["quantization_config"] = usual
    return ModelFile(name=name, config=config, source=f"https://huggingface.co/{asked}", id=asked, weights=weights)


def _shipped(asked: str) -> ModelFile | None:
    """The shipped model a name means: by file name first, which reads one file, by the aliases in all files second."""
    stems = set(short_names())
    readings = list(_readings(fold(asked.rsplit("/", 1)[-1])))
    for reading, words in readings:
        if reading in stems:
            return _variant(_load_shipped(reading), asked, words)
    aliases = _aliases(FOLDER)
    whole = fold(asked)
    for reading, words in [(whole, ()), *readings]:
        if reading in aliases:
            return _variant(_load_shipped(aliases[reading]), asked, words)
    return None


def _weight_words(tokens: list[str]) -> tuple[str, ...]:
    """Those of the words of a name that say how its weights are stored, the one that counts first.

    In -AWQ-INT4 the second word repeats the first; in -GPTQ-Int8 it says the bits that GPTQ leaves open.
    """
    words = tuple(token for token in tokens if token in WEIGHT_WORDS)
    return ("int8", *words) if words[:2] == ("gptq", "int8") else words


def _readings(folded: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Spellings a folded name may be shipped under, most specific first, each with the weight words taken out of it."""
    tokens = folded.split("-")
    if tokens[-2:] == ["bnb", "4bit"]:
        tokens = [*tokens[:-2], "int4"]
    yield "-".join(tokens), ()
    words = _weight_words(tokens)
    tokens = [token for token in tokens if token not in WEIGHT_WORDS]
    yield "-".join(tokens), words
    tokens = [token for token in tokens if token not in VARIANT_WORDS]
    yield "-".join(tokens), words
    yield "-".join(token for token in tokens if not _DATE.fullmatch(token)), words


@lru_cache(maxsize=1)
def _aliases(folder: Path) -> dict[str, str]:
    """Folded id, alias or last part of one -> short name, over all shipped files, which are read once."""
    table: dict[str, str] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stem):
        short, meta = path.stem, read_config(path)["gemmstone"]
        for alias in [meta["id"], *meta["aliases"], *meta.get("variants", {})]:
            table.setdefault(fold(alias), short)
            table.setdefault(fold(alias.rsplit("/", 1)[-1]), short)
    return table


def _load_shipped(short: str) -> ModelFile:
    config = read_config(FOLDER / f"{short}.json")
    meta = config.pop("gemmstone")
    return ModelFile(
        name=short,
        config=config,
        source=meta["source"],
        id=meta["id"],
        fp8=_flavour(_published_quantization(short, meta["id"], "fp8")),
        published=meta["parameters"],
        kv_bytes_per_token=meta.get("kv_bytes_per_token"),
        withheld=meta.get("withheld", ""),
    )


def _published_quantization(short: str, asked: str, word: str) -> dict[str, Any] | None:
    """The quantization_config of the asked organisation's checkpoints of this model in that format, where it is on file."""
    variants: dict[str, dict[str, Any]] = read_config(FOLDER / f"{short}.json")["gemmstone"].get("variants", {})
    organisation = fold(asked.rsplit("/", 1)[0])
    for variant, quantization in variants.items():
        owner, name = variant.rsplit("/", 1)
        if fold(owner) == organisation and word in fold(name).split("-"):
            return quantization
    return None


def _flavour(quantization: Mapping[str, Any] | None) -> str:
    """The number format of a published checkpoint in 8-bit floating point, "" for others."""
    if not quantization or quantization.get("quant_method") != "fp8":
        return ""
    return "fp8-block" if "weight_block_size" in quantization else "fp8"


def _variant(shipped: ModelFile, asked: str, words: tuple[str, ...]) -> ModelFile:
    """A shipped model under the asked name: as it is, or with the weights that the name says."""
    if not words:
        return shipped
    exact = _published_quantization(shipped.name, asked, words[0])
    weights, usual = WEIGHT_WORDS[words[0]]
    quantization = usual if exact is None else exact
    config = {key: value for key, value in shipped.config.items() if key != "quantization_config"}
    if quantization:
        config["quantization_config"] = quantization
    weights = _flavour(exact) or weights
    return ModelFile(
        name=shipped.name,
        config=config,
        source=shipped.source,
        id=asked if "/" in asked else shipped.id,
        weights=weights,
        published=shipped.published,
        kv_bytes_per_token=shipped.kv_bytes_per_token,
        withheld=shipped.withheld,
    )

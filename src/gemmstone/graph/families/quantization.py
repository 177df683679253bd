"""Reading quantization_config: how a checkpoint stores its weights, in the dialects of the tools that write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown
from gemmstone.core.model import Quantization
from gemmstone.graph.families.fields import Config, shown

Formats = tuple[str, str]  # of weights and of activations, "" for activations that stay in the model dtype


def quantization(config: Config) -> Quantization | None:
    """What the checkpoint's quantization_config (or compression_config) says, None without one.

    A checkpoint that leaves attention out of the quantised modules counts as experts_only: its MLPs and experts hold
    nearly all weights, and the layers left out of them (output projections in some) are a percent of the total.
    """
    found = config.get("quantization_config") or config.get("compression_config")
    if found is None:
        return None
    if not isinstance(found, Mapping):
        raise BadRequest(f"'quantization_config' in the config.json has to be an object, not {shown(found)}")
    method = found.get("quant_method")
    if not isinstance(method, str) or method.lower() not in METHODS:
        raise unknown("quant_method in the config.json", method if isinstance(method, str) else shown(method), METHODS)
    weights, activations = METHODS[method.lower()](found)
    return Quantization(
        weights=weights,
        activations=activations,
        kv_cache=_kv_cache(found),
        experts_only=any("attn" in pattern or "attention" in pattern for pattern in _left_out(found)),
        method=method.lower(),
    )


def _fp8(found: Config) -> Formats:
    return ("fp8-block" if found.get("weight_block_size") else "fp8"), "fp8"


def _modelopt(found: Config) -> Formats:
    algorithm = found.get("quant_algo") or _nested(found, "quantization").get("quant_algo")
    if algorithm is None and found.get("config_groups"):
        return _compressed_tensors(found)
    known: dict[str, Formats] = {
        "FP8": ("fp8", "fp8"),
        "FP8_PB_WO": ("fp8-block", "fp8"),
        "NVFP4": ("nvfp4", "nvfp4"),
        "W4A16_NVFP4": ("nvfp4", ""),
        "W4A16_AWQ": ("int4", ""),
        "W4A8_AWQ": ("int4", "fp8"),
        "INT8_SQ": ("int8", "int8"),
        "MXFP4": ("mxfp4", "mxfp4"),
    }
    if not isinstance(algorithm, str) or algorithm.upper() not in known:
        raise unknown("quant_algo in the config.json", shown(algorithm), known)
    return known[algorithm.upper()]


def _integer_groups(found: Config) -> Formats:
    """AWQ and GPTQ: weight-only integers of the stated width."""
    return _weight_format(found.get("bits", found.get("w_bit", 4)), "int", 0, ""), ""


def _bitsandbytes(found: Config) -> Formats:
    return ("int4", "") if found.get("load_in_4bit") or found.get("_load_in_4bit") else ("int8", "int8")


def _compressed_tensors(found: Config) -> Formats:
    """The first of its groups, which covers the linear layers; sparsity and further groups are left out."""
    groups = _nested(found, "config_groups")
    first = next((group for group in groups.values() if isinstance(group, Mapping)), {})
    weights = _nested(first, "weights")
    activations = _nested(first, "input_activations")
    size = weights.get("group_size")
    stored = _weight_format(
        weights.get("num_bits"), weights.get("type"), size if isinstance(size, int) else 0, weights.get("strategy")
    )
    if not activations:
        return stored, ""
    computed = _weight_format(activations.get("num_bits"), activations.get("type"), 16 if stored == "nvfp4" else 32, "")
    return stored, computed


def _weight_format(bits: object, kind: object, group_size: int, strategy: object) -> str:
    table = {
        (8, "float"): "fp8-block" if strategy == "block" else "fp8",
        (4, "float"): "nvfp4" if group_size == 16 else "mxfp4",
        (8, "int"): "int8",
        (4, "int"): "int4",
        (2, "int"): "ternary",
        (16, "float"): "bf16",
    }
    if not isinstance(bits, int) or not isinstance(kind, str) or (bits, kind) not in table:
        raise BadRequest(
            f"'quantization_config' holds {shown(kind)} weights of {shown(bits)} bits, which has no number format here"
        )
    return table[bits, kind]


METHODS: dict[str, Callable[[Config], Formats]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "awq": _integer_groups,
    "gptq": _integer_groups,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "mxfp4": lambda found: ("mxfp4", ""),
}


def _kv_cache(found: Config) -> str:
    algorithm = found.get("kv_cache_quant_algo") or _nested(found, "quantization").get("kv_cache_quant_algo")
    scheme = _nested(found, "kv_cache_scheme")
    eight_bits = scheme.get("num_bits") == 8 and scheme.get("type", "float") == "float"
    return "fp8" if eight_bits or (isinstance(algorithm, str) and algorithm.upper() == "FP8") else ""


def _left_out(found: Config) -> list[str]:
    """Names or patterns of the modules that keep the model dtype."""
    nested = _nested(found, "quantization")
    lists = [
        found.get("ignore"),
        found.get("modules_to_not_convert"),
        found.get("exclude_modules"),
        nested.get("exclude_modules"),
    ]
    return [item for items in lists if isinstance(items, list) for item in items if isinstance(item, str)]


def _nested(found: Config, key: str) -> Mapping[str, Any]:
    value = found.get(key)
    return value if isinstance(value, Mapping) else {}

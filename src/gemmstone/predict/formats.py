"""Number formats of a deployment: what the user said, else the checkpoint, computed in what device and engine can."""

from __future__ import annotations

from gemmstone.catalog.engine_files import Engine
from gemmstone.core import dtypes
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.core.model import Model, Quantization

NARROW = 0.75  # bytes per element below which a checkpoint leaves attention in a wider format
EIGHT_BITS = ("fp8", "int8")
FOUR_BITS = ("int4", "nvfp4", "mxfp4")
NARROWER = ("int2", "ternary")
# The format of the products of quantised weights, where it is not the model's own.
PRODUCTS = {"fp8": "fp8", "fp8-block": "fp8", "int8": "int8", "nvfp4": "nvfp4", "mxfp4": "mxfp4"}
_SAME_UNIT = {"nvfp4": ("fp4",), "mxfp4": ("fp4", "nvfp4")}
_SIXTEEN_BITS = {"bf16": "fp16", "fp16": "bf16"}


def number_formats(
    model: Model,
    device: Device,
    engine: Engine,
    weights: str | None = None,
    activations: str | None = None,
    kv_cache: str | None = None,
) -> dict[str, str]:
    """The format fields of a Deployment; None leaves a format open. Raises BadRequest for what nobody runs there.

    Checkpoints in 4 bits quantise the feed-forward matrices of a mixture of experts and leave attention in the model's
    format, or in that of the engine's own recipes; of a dense model, and in GGUF files, they quantise all linear layers. Without bf16 (Volta, Turing)
    models run in fp16, without fp16 in bf16. Checkpoints in fp32 are served in 16 bits on accelerators and stay what they are on
    processors; with weights in fp32 all else is fp32, too.
    """
    stays = device.kind == "cpu" and weights is None and model.quantization is None
    served = "bf16" if model.dtype in ("fp32", "tf32") and not stays else model.dtype
    model_dtype = _sixteen_bits(served, device)
    stored, products = _weights(weights, model, device, engine, model_dtype)
    if activations:
        products = _asked_products(activations, stored, device)
    if stored == products == "fp32":
        model_dtype = "fp32"
    attention_weights, attention_activations = stored, products
    if model.is_moe and dtypes.size(stored) < NARROW and stored not in dtypes.GGUF:
        narrow = engine.narrow_recipes
        attention_weights = narrow if narrow in device.peak_flop_per_s else model_dtype
        attention_activations = _products(attention_weights, None, device, engine, model_dtype)
    cache = _cache(kv_cache, stored, device, engine, model_dtype)
    problem = not_run(engine, device, stored, cache)
    if problem:
        raise BadRequest(problem)
    return {
        "weights": stored,
        "activations": products,
        "attention_weights": attention_weights,
        "attention_activations": attention_activations,
        "kv_cache": cache,
        "model_dtype": model_dtype,
    }


def not_run(engine: Engine, device: Device, weights: str, kv_cache: str) -> str:
    """Why the engine does not run these two formats on the device, with those it does; empty when it runs them.

    Weights in a format that the engine has kernels for on other architectures are taken as weight-only.
    """
    for what, wanted, known, accepts in (
        ("weights in", weights, engine.weights, engine.accepts_weights),
        ("a KV cache in", kv_cache, engine.kv_cache, engine.accepts_kv_cache),
    ):
        if not accepts(wanted, device.architecture):
            taken = [
                name for name in known if accepts(name, device.architecture) and _sixteen_bits(name, device) == name
            ]
            if taken and what == "weights in" and wanted in known:
                continue  # kernels for other architectures only: unpacked on the way in, as weight-only
            if not taken:
                return f"{engine.title} does not run on {device.slug}: choose another --engine"
            return f"{engine.title} does not run {what} {wanted} on {device.slug}: it takes {', '.join(taken)}"
    return ""


def _weights(asked: str | None, model: Model, device: Device, engine: Engine, wide: str) -> tuple[str, str]:
    """Stored format of the weights and the format of their products."""
    checkpoint = model.quantization
    if not asked:
        name = checkpoint.weights if checkpoint else wide
        return name, _products(name, checkpoint, device, engine, wide)
    widths = dtypes.widths(asked)
    if widths:
        name, products = _of_widths(widths, device, engine, wide)
        return _published(name, model, device, engine), products
    name = _sixteen_bits(_published(dtypes.resolve(asked), model, device, engine), device)
    if asked.strip().lower() == "fp4" and checkpoint and checkpoint.weights == "mxfp4":
        name = "mxfp4"
    if asked.strip().lower().endswith("_wo"):
        return name, wide
    return name, _products(name, checkpoint, device, engine, wide)


def _published(name: str, model: Model, device: Device, engine: Engine) -> str:
    """The flavour of fp8 that the checkpoint, or the one its organisation publishes in 8 bits, is in where fp8 is meant."""
    if name != "fp8":
        return name
    flavour = model.quantization.weights if model.quantization else model.fp8
    return flavour if flavour == "fp8-block" and engine.accepts_weights(flavour, device.architecture) else name


def _of_widths(widths: tuple[int, int], device: Device, engine: Engine, wide: str) -> tuple[str, str]:
    """The formats that `wNaM` stands for on this device: floating point before integers."""
    weights, activations = widths
    stored = {16: wide, 8: "int8", 4: "int4", 2: "int2"}[weights]
    if activations == 16:
        return stored, wide
    # w4a8 keeps integers of 4 bits; elsewhere weights and activations share their format.
    pairs = {
        (8, 8): [(name, name) for name in EIGHT_BITS],
        (4, 8): [("int4", name) for name in EIGHT_BITS],
        (2, 8): [("int2", name) for name in EIGHT_BITS],
        (4, 4): [(name, name) for name in ("nvfp4", "mxfp4")],
    }[widths]
    for stored, products in pairs:
        runs = products != "int8" or stored != "int8" or engine.computes_int8_on(device.architecture)
        if _computes(device, products) and runs and engine.accepts_weights(stored, device.architecture):
            return stored, products
    raise BadRequest(
        f"w{weights}a{activations} needs products in {' or '.join(products for _, products in pairs)}, which "
        f"{engine.title} does not run on {device.slug}; the device computes in {_peaks(device)}"
    )


def _products(name: str, checkpoint: Quantization | None, device: Device, engine: Engine, wide: str) -> str:
    """The format the products run in: the weights' own where device and engine have it, else the model's (weight-only)."""
    if dtypes.size(name) >= 2:
        return name
    if checkpoint and checkpoint.weights == name and name != "mxfp4":  # mxfp4 files do not name their products
        said = PRODUCTS.get(checkpoint.activations, "")
        return said if said and _runs(said, device, engine) else wide
    own = PRODUCTS.get(name, "")
    return own if own and _runs(own, device, engine) else wide


def _runs(products: str, device: Device, engine: Engine) -> bool:
    return _computes(device, products) and (products != "int8" or engine.computes_int8_on(device.architecture))


def _asked_products(asked: str, weights: str, device: Device) -> str:
    """Activations as the user wants them, if the device computes in them and there are kernels for such a pair."""
    name = dtypes.resolve(asked)
    name = _sixteen_bits(PRODUCTS.get(name, name), device)
    if dtypes.widths(asked) or not _computes(device, name):
        raise BadRequest(f"{device.slug} does not compute in {asked.strip()[:80]}: it computes in {_peaks(device)}")
    mixed = (weights in (*FOUR_BITS, *NARROWER) and name in EIGHT_BITS) or (weights in dtypes.GGUF and name == "int8")
    if dtypes.size(name) < 2 and name != PRODUCTS.get(weights) and not mixed:
        raise BadRequest(
            f"no engine multiplies {weights} weights by {name} activations: leave --activations out or give --weights {name}"
        )
    return name


def _cache(asked: str | None, weights: str, device: Device, engine: Engine, wide: str) -> str:
    """The format of the KV cache: an engine's recipes for 8 bits and less may come with a narrow one."""
    if asked:
        if dtypes.widths(asked):
            raise BadRequest(f"{asked.strip()[:80]!r} names weights and activations: a KV cache has one format, as fp8")
        return _sixteen_bits(dtypes.resolve(asked), device)
    eight_bits_or_less = dtypes.size(weights) <= dtypes.size("fp8-block")
    narrow = engine.narrow_recipes
    if narrow and eight_bits_or_less and engine.accepts_kv_cache(narrow, device.architecture):
        return narrow
    return wide


def _sixteen_bits(name: str, device: Device) -> str:
    """bf16 or fp16, whichever the device has when it has only one of them; other formats as they are."""
    other = _SIXTEEN_BITS.get(name)
    peaks = device.peak_flop_per_s
    return other if other and name not in peaks and other in peaks else name


def _computes(device: Device, name: str) -> bool:
    return any(peak in device.peak_flop_per_s for peak in (name, *_SAME_UNIT.get(name, ())))


def _peaks(device: Device) -> str:
    return ", ".join(device.peak_flop_per_s)

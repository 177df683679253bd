"""Training steps of small GPTs on single GPUs, as the Languini Kitchen (2309.11197) measured them: read, checked, fitted.

The published table (github.com/languini-kitchen/languini-kitchen, Apache-2.0) has rows with a column too many or too few: a
row is taken only if its numbers agree with each other. `python -m gemmstone.calibrate.languini TABLE.csv` renews
catalog/training_single_gpu.json.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gemmstone.catalog import device_files, training_files
from gemmstone.core.errors import BadRequest, GemmstoneError
from gemmstone.core.training import TrainingFit, TrainingWork
from gemmstone.predict import training
from gemmstone.predict.training import Decoder

Floats = npt.NDArray[np.float64]
MAX_FILE_BYTES = 16 << 20
MAX_ROWS = 20_000
SMALL_BATCH = 16
# Beside its parameters (4 bytes each) every model of the table holds 64 MiB a layer, by its own column of model memory.
BUFFER_BYTES_PER_LAYER = 64 * 2**20
# Least bytes of a kept value: half precision; of a logit beside it the fp32 copy that the loss is computed from.
LEAST_BYTES = (2.0, 2.0, 6.0)
TOLERANCE = 0.02  # between columns of one row that say the same; the mean of rates is not the rate of the mean
SOFTWARE = "PyTorch, autocast to fp16, attention not fused"
# A V100 of some clouds, with lower clocks; its difference is in the fitted factors.
NAMES = {"Tesla V100-SXM2-32GB-LS": "v100-sxm-32gb"}
CANNOT_COMPILE = ("pascal", "maxwell")  # torch.compile needs compute capability 7.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One row: a model and a batch on a device, and seconds of a step, or that it ran out of memory."""

    device: str
    config: str
    sizes: Decoder
    batch: int
    sequence: int
    step_s: float
    out_of_memory: bool
    line: int

    @property
    def work(self) -> TrainingWork:
        return training.work(self.sizes, float(self.batch), self.sequence)

    @property
    def buffer_bytes(self) -> float:
        return float(BUFFER_BYTES_PER_LAYER * self.sizes.layers)


def read(path: Path) -> tuple[list[Step], list[str]]:
    """Steps of the GPTs in a table, and a line for each row that cannot be right. Raises BadRequest for another table."""
    if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
        raise BadRequest(f"{path}: no table of training steps (a CSV of at most {MAX_FILE_BYTES >> 20} MiB)")
    steps: list[Step] = []
    rejected: list[str] = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.DictReader(file)
        if "avg step duration in ms" not in (rows.fieldnames or ()):
            raise BadRequest(f"{path.name} has no column 'avg step duration in ms': not a table of training steps")
        for row in rows:
            if row.get("architecture", "GPT") != "GPT":
                continue  # recurrent models have another step
            if len(steps) + len(rejected) >= MAX_ROWS:
                raise BadRequest(f"{path.name} has more than {MAX_ROWS} rows")
            try:
                steps.append(_step(row, rows.line_num))
            except (ValueError, TypeError, KeyError, BadRequest) as error:
                rejected.append(f"line {rows.line_num}: {error}")
    return steps, rejected


def _step(row: Mapping[str | None, str | None], line: int) -> Step:
    if None in row or any(value is None for value in row.values()):
        raise ValueError(f"{sum(value is not None for name, value in row.items() if name)} columns, not as the header")
    cells = {str(name): str(value) for name, value in row.items()}
    flags = {"True": True, "False": False}
    if cells["OOM"] not in flags or cells["use_flash"] not in {*flags, ""}:
        raise ValueError(f"columns are shifted: OOM is {cells['OOM'][:20]!r}, use_flash {cells['use_flash'][:20]!r}")
    failed = flags[cells["OOM"]]
    whole = ("batch_size", "seq_len", "n_layers", "h_dim", "mlp_dim", "n_heads", "head_dim", "vocab_size")
    batch, sequence, layers, hidden, mlp, heads, head_dim, words = (_positive(cells[name], name) for name in whole)
    count = _positive(cells["number of parameters"], "number of parameters")
    slug = device_files.find(NAMES.get(cells["device"], cells["device"])).slug
    sizes = Decoder(
        layers=layers,
        hidden=hidden,
        intermediate=mlp,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        vocabulary=words,
        parameters=count,
    )
    seconds = 0.0 if failed else float(cells["avg step duration in ms"]) / 1e3
    if not failed:
        _check(cells, sizes, batch * sequence, seconds)
    return Step(
        device=slug,
        config=cells["config_name"],
        sizes=sizes,
        batch=batch,
        sequence=sequence,
        step_s=seconds,
        out_of_memory=failed,
        line=line,
    )


def _positive(text: str, name: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 10**12:
        raise ValueError(f"columns are shifted: {name} is {text[:20]!r}")
    return int(text)


def _check(cells: Mapping[str, str], sizes: Decoder, tokens: int, seconds: float) -> None:
    """Raises ValueError where columns of a row contradict each other."""
    said = float(cells["tokens per batch"])
    if said != tokens:
        raise ValueError(f"tokens per batch is {said:g}, batch x length {tokens}")
    rate = float(cells["tokens per second"])
    if not seconds > 0 or abs(rate * seconds / tokens - 1) > TOLERANCE:
        raise ValueError(f"{rate:g} tokens/s are not {tokens} tokens in {seconds:g} s")
    if abs(sizes.weights / sizes.parameters - 1) > 0.5:
        raise ValueError(f"{sizes.parameters} parameters, by its sizes about {sizes.weights}")


# Fits ---------------------------------------------------------------------------------------------------------------------


def measured(steps: Iterable[Step], device: str) -> list[Step]:
    """The steps of a device that ran."""
    return [step for step in steps if step.device == device and not step.out_of_memory]


def fit_time(steps: Sequence[Step], device: str) -> tuple[float, float, float]:
    """Host seconds a layer, compute factor and memory factor with the least squares of log(predicted / measured)."""
    from scipy.optimize import least_squares  # lazy: only fits need it

    blank = training_files.blank(device)
    slug = device_files.find(device)
    seconds = np.array([step.step_s for step in steps])
    asked = _joined(steps)

    def residuals(logs: Floats) -> Floats:
        host, compute, memory = (float(value) for value in np.exp(logs))
        trial = replace(blank, host_s_per_layer=host, compute_factor=compute, memory_factor=memory)
        predicted: Floats = np.asarray(training.step_s(asked, slug, trial)["step"], dtype=float)
        logarithms: Floats = np.log(predicted / seconds)
        return logarithms

    found = least_squares(residuals, np.log([3e-3, 2.0, 3.0]), bounds=(np.log([1e-5, 0.5, 0.5]), np.log([1.0, 20, 50])))
    host, compute, memory = np.exp(found.x)
    return float(host), float(compute), float(memory)


def _joined(steps: Sequence[Step]) -> TrainingWork:
    """The work of all steps as arrays."""

    def all_of(get: Callable[[TrainingWork], object]) -> Floats:
        return np.array([get(step.work) for step in steps], dtype=float)

    return TrainingWork(
        layers=all_of(lambda work: work.layers),  # type: ignore[arg-type]
        parameters=all_of(lambda work: work.parameters),  # type: ignore[arg-type]
        flop=all_of(lambda work: work.flop),
        moved_bytes=all_of(lambda work: work.moved_bytes),
        layer_values=all_of(lambda work: work.layer_values),
        score_values=all_of(lambda work: work.score_values),
        logit_values=all_of(lambda work: work.logit_values),
    )


def ratios(steps: Sequence[Step], fit: TrainingFit) -> Floats:
    """Predicted over measured seconds of each step."""
    predicted = np.asarray(training.step_s(_joined(steps), device_files.find(fit.device), fit)["step"], dtype=float)
    found: Floats = predicted / np.array([step.step_s for step in steps])
    return found


def mape(values: Floats) -> float:
    """Mean of |predicted / measured - 1|."""
    return float(np.mean(np.abs(values - 1.0))) if len(values) else float("nan")


def limits(steps: Iterable[Step], device: str) -> list[Step]:
    """For each model that ran and failed, the smallest batch that did not fit: what it needs just exceeds the memory."""
    found = []
    mine = [step for step in steps if step.device == device]
    for config in sorted({step.config for step in mine}):
        ran = [step for step in mine if step.config == config and not step.out_of_memory]
        failed = [step for step in mine if step.config == config and step.out_of_memory]
        if ran and failed:
            found.append(min(failed, key=lambda step: step.batch))
    return found


def fit_memory(at_limit: Sequence[Step], device: str) -> tuple[float, float, float]:
    """Bytes of a kept value of a layer, of a score and of a logit, with which the models fill the device at their limit."""
    from scipy.optimize import lsq_linear  # lazy: only fits need it

    capacity = device_files.find(device).memory_bytes
    rows = [(step.work.layer_values, step.work.score_values, step.work.logit_values) for step in at_limit]
    fixed = np.array([training.STATE_BYTES * step.sizes.parameters + step.buffer_bytes for step in at_limit])
    found = lsq_linear(np.array(rows, float) / capacity, 1.0 - fixed / capacity, bounds=(LEAST_BYTES, np.inf))
    value, score, logit = (float(number) for number in found.x)
    return value, score, logit


def filled(at_limit: Sequence[Step], fit: TrainingFit) -> Floats:
    """Predicted need over the device's memory for steps at their limit; 1 is right."""
    bare = replace(fit, memory_margin_frac=0.0)
    capacity = device_files.find(fit.device).memory_bytes
    return np.array([training.need_bytes(step.work, bare, step.buffer_bytes) for step in at_limit], float) / capacity


def filled_held_out(at_limit: Sequence[Step], fit: TrainingFit) -> Floats:
    """The same for each model by the memory of the device's other models."""
    found = []
    for step in at_limit:
        others = [other for other in at_limit if other.config != step.config]
        found.append(filled([step], with_memory(fit, fit_memory(others, fit.device))))
    return np.concatenate(found)


def runs_out(step: Step, fit: TrainingFit) -> bool:
    """Whether a step is predicted not to fit."""
    need = training.need_bytes(step.work, fit, step.buffer_bytes)
    return bool(need > device_files.find(step.device).memory_bytes)


def fit_device(steps: Sequence[Step], device: str) -> TrainingFit:
    """Everything fitted for one device, with its errors."""
    ran, at_limit = measured(steps, device), limits(steps, device)
    small = [step for step in ran if step.batch <= SMALL_BATCH]
    large = [step for step in ran if step.batch > SMALL_BATCH]
    found = with_time(training_files.blank(device), fit_time(ran, device))
    found = with_memory(found, fit_memory(at_limit, device))
    held = held_out(ran, device)
    margin = float(np.quantile(1.0 / filled_held_out(at_limit, found), 0.9)) - 1.0
    compiled = device_files.find(device).architecture not in CANNOT_COMPILE
    return replace(
        found,
        software=SOFTWARE + (", torch.compile" if compiled else ""),
        memory_margin_frac=max(margin, 0.0),
        error_frac=float(np.sqrt(np.mean(np.log(held) ** 2))),
        mape=mape(ratios(ran, found)),
        larger_mape=mape(ratios(large, with_time(found, fit_time(small, device)))),
        rows=len(ran),
        limits=len(at_limit),
        valid={
            "parameters": _range(step.sizes.parameters for step in ran),
            "batch": _range(step.batch for step in ran),
            "sequence": _range(step.sequence for step in ran),
        },
    )


def held_out(ran: Sequence[Step], device: str) -> Floats:
    """Predicted over measured seconds of each model's steps by a fit on the device's other models."""
    found = []
    for config in sorted({step.config for step in ran}):
        others = [step for step in ran if step.config != config]
        one = with_time(training_files.blank(device), fit_time(others, device))
        found.append(ratios([step for step in ran if step.config == config], one))
    return np.concatenate(found)


def with_time(fit: TrainingFit, found: tuple[float, float, float]) -> TrainingFit:
    """A fit with other coefficients of time."""
    host, compute, memory = found
    return replace(fit, host_s_per_layer=host, compute_factor=compute, memory_factor=memory)


def with_memory(fit: TrainingFit, found: tuple[float, float, float]) -> TrainingFit:
    """A fit with other bytes of kept values."""
    value, score, logit = found
    return replace(fit, value_bytes=value, score_bytes=score, logit_bytes=logit)


def _range(values: Iterable[int]) -> tuple[float, float]:
    found = list(values)
    return float(min(found)), float(max(found))


def fit_all(steps: Sequence[Step]) -> list[TrainingFit]:
    """A fit for every device of a table."""
    return [fit_device(steps, device) for device in sorted({step.device for step in steps})]


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m gemmstone.calibrate.languini TABLE.csv", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    try:
        steps, rejected = read(path)
    except GemmstoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for line in rejected:
        print(f"left out, {line}")
    fits = fit_all(steps)
    training_files.write(fits, path)
    for fit in fits:
        print(f"{fit.device}: {fit.rows} steps, mean error {fit.mape:.1%}, larger batches {fit.larger_mape:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

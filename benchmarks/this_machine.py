"""Predicts forward passes of Llama-shaped models on this machine and measures them: the bar of docs/howto/this-machine.md.

    gemmstone measure kernels --budget 5min && gemmstone calibrate
    python benchmarks/this_machine.py --size 50m --dtype fp32 --out cases.json     # and so on: a piece of a minute or two each
    python benchmarks/this_machine.py --summary cases.json

Prompts of 64 to 2,048 tokens and steps of decoding with 1, 4 and 16 sequences, in fp32 and bf16, of models of 50 to 500 million
parameters. `--models transformers` measures Hugging Face's LlamaForCausalLM instead of ours, `--models both` both. Every prediction is
that of the verb: gemmstone predict CONFIG --on this-machine --weights DTYPE --batch B --input N --output M.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone import api

# hidden size, layers, heads, KV heads, intermediate size; vocabulary 32,000
SIZES = {
    "50m": (512, 8, 8, 4, 1408),
    "125m": (768, 12, 12, 12, 2048),
    "250m": (1024, 16, 16, 4, 2816),
    "500m": (1280, 22, 20, 4, 3584),
}
VOCABULARY = 32000
PROMPTS = ((1, 64), (1, 256), (1, 512), (1, 2048), (4, 128))
STEPS = ((1, 128), (4, 512), (16, 256), (1, 2048))
LIMIT_S = 1.5  # of sampling a pass
WINDOW_S, DISTURBED = 0.2, 0.04  # seconds of a window; processors that others may use in it
PATIENCE_S, MOST = 6.0, 200  # to wait for windows that nobody disturbs; samples
LEAST, SLOW_S = 3, 4.0  # samples; two of passes that take longer


def config(size: str, dtype: str) -> dict[str, Any]:
    """The config.json of a model."""
    hidden, layers, heads, kv_heads, intermediate = SIZES[size]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": {"fp32": "float32", "bf16": "bfloat16"}[dtype],
    }


def predicted(path: Path, dtype: str, kind: str, batch: int, tokens: int, on: str) -> float:
    """Seconds of a forward pass, as predict tells them: the first token of a prompt, the time of each further one."""
    output = 1 if kind == "prefill" else 3
    work = api.Workload(input_tokens=tokens, output_tokens=output, mode="batch", load=batch)
    scenario = api.Scenario(model=str(path), hardware=on, choice=api.Choice(weights=dtype), workload=work)
    metrics = api.predict(scenario)["metrics"]
    return float(metrics["ttft_s" if kind == "prefill" else "tpot_s"]["value"])


def others_s() -> float:
    """Processor seconds that anything but this process has used since the machine was started."""
    import psutil

    every, own_ = psutil.cpu_times(), psutil.Process().cpu_times()
    busy = every.user + every.system + every.nice + every.irq + every.softirq + every.steal
    return float(busy - own_.user - own_.system)


def sampled(run: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of a call after a warm-up, and the share of the samples that it is of.

    Samples are taken in windows; those in which something else used the processors are set aside while there are others.
    """
    started = time.perf_counter()
    run()
    first = time.perf_counter() - started
    least, until = (2 if first > SLOW_S else LEAST), time.perf_counter() + max(LIMIT_S, 6.0 * first)
    clean: list[float] = []
    disturbed: list[tuple[float, float]] = []
    while (len(clean) < least or time.perf_counter() < until - LIMIT_S) and time.perf_counter() < until + PATIENCE_S:
        window: list[float] = []
        before, began = others_s(), time.perf_counter()
        while not window or time.perf_counter() - began < WINDOW_S:
            started = time.perf_counter()
            run()
            window.append(time.perf_counter() - started)
        share = (others_s() - before) / (time.perf_counter() - began)
        if share < DISTURBED:
            clean += window
        else:
            disturbed += [(share, seconds) for seconds in window]
        if len(clean) >= MOST:
            break
    if not clean:
        least_share = min(share for share, _ in disturbed)
        return statistics.median(seconds for share, seconds in disturbed if share <= 1.2 * least_share), 0.0
    return statistics.median(clean), len(clean) / (len(clean) + len(disturbed))


def own(path: Path, dtype: str, cases: list[tuple[str, int, int]]) -> Iterator[tuple[float, float]]:
    """Seconds of the cases with measure.pytorch.llama."""
    import torch

    from gemmstone.measure.pytorch.forward import prepared
    from gemmstone.measure.pytorch.llama import llama
    from gemmstone.simulate.scenario import load_model

    made = llama(load_model(str(path)), {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    with torch.inference_mode():
        for kind, batch, tokens in cases:
            yield sampled(prepared(made, kind, batch, tokens, "cpu").call)


def transformers(path: Path, dtype: str, cases: list[tuple[str, int, int]]) -> Iterator[tuple[float, float]]:
    """Seconds of the cases with LlamaForCausalLM: prompts with the logits of the last position, as generate() has them."""
    import torch
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    kind_of = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    made = LlamaForCausalLM(LlamaConfig.from_json_file(str(path))).to(kind_of).eval()
    with torch.inference_mode():
        for kind, batch, tokens in cases:
            ids = torch.randint(VOCABULARY, (batch, tokens))
            if kind == "prefill":
                yield sampled(lambda ids=ids: made(ids, logits_to_keep=1, use_cache=True))
                continue
            cache = DynamicCache()
            made(ids, logits_to_keep=1, past_key_values=cache, use_cache=True)
            last = ids[:, -1:]
            # the cache grows by a token a step: a per cent over a hundred of them
            yield sampled(lambda last=last, cache=cache: made(last, past_key_values=cache, use_cache=True))


MODELS = {"own": own, "transformers": transformers}


def measured(size: str, dtype: str, models: str, on: str) -> Iterator[dict[str, Any]]:
    """A row a case: measured and predicted seconds."""
    cases = [("prefill", *case) for case in PROMPTS] + [("decode", *case) for case in STEPS]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config(size, dtype)), encoding="utf-8")
        for name in MODELS if models == "both" else (models,):
            for case, (seconds, undisturbed) in zip(cases, MODELS[name](path, dtype, cases), strict=True):
                told = predicted(path, dtype, *case, on)
                row = {"size": size, "dtype": dtype, "models": name, "case": list(case), "undisturbed": undisturbed}
                found = {**row, "measured_s": seconds, "predicted_s": told}
                print(line(found), flush=True)
                yield found


def line(row: dict[str, Any]) -> str:
    """A case in a line."""
    kind, batch, tokens = row["case"]
    ratio = row["predicted_s"] / row["measured_s"]
    shown = f"{1e3 * row['measured_s']:10.2f} ms, predicted {1e3 * row['predicted_s']:10.2f} ms"
    return f"{row['models']:<13}{row['size']:>5} {row['dtype']} {kind:<8}{batch:>3} x {tokens:<5}{shown}  {ratio:5.2f}  {row['undisturbed']:.0%} undisturbed"


def summary(rows: list[dict[str, Any]]) -> None:
    """Median and 90% quantile of |predicted / measured - 1|: of all that was measured undisturbed, and of each kind of cases."""
    parts: dict[str, list[float]] = {}
    for row in rows:
        if not row["undisturbed"]:
            continue
        error = abs(row["predicted_s"] / row["measured_s"] - 1.0)
        for part in ("all", row["models"], f"{row['dtype']} {row['case'][0]}", row["size"]):
            parts.setdefault(part, []).append(error)
    for part, errors in parts.items():
        median, p90 = np.median(errors), np.quantile(errors, 0.9)
        print(f"{part:<16}{len(errors):>4} cases: median {100 * median:5.1f}%, P90 {100 * p90:5.1f}%")


def again(rows: list[dict[str, Any]], on: str) -> list[dict[str, Any]]:
    """The measured rows with today's predictions."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            path = Path(folder) / f"{row['size']}-{row['dtype']}.json"
            path.write_text(json.dumps(config(row["size"], row["dtype"])), encoding="utf-8")
            found.append({**row, "predicted_s": predicted(path, row["dtype"], *row["case"], on)})
            print(line(found[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, action="append")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), action="append")
    parser.add_argument("--models", choices=(*MODELS, "both"), default="own")
    parser.add_argument("--on", default="this-machine")
    parser.add_argument("--out", type=Path, help="append the cases to this file")
    parser.add_argument("--summary", type=Path, help="predict the cases in this file again and sum them up")
    asked = parser.parse_args()
    if asked.summary:
        summary(again(json.loads(asked.summary.read_text(encoding="utf-8")), asked.on))
        return
    rows = []
    for size in asked.size or SIZES:
        for dtype in asked.dtype or ("fp32", "bf16"):
            for row in measured(size, dtype, asked.models, asked.on):
                rows.append(row)
                if asked.out:  # at once: a piece may be cut off
                    before = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.is_file() else []
                    asked.out.write_text(json.dumps([*before, row], indent=1), encoding="utf-8")
    summary(rows)


if __name__ == "__main__":
    main()

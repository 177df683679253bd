"""Techniques: what their texts mean, what they rewrite, when they do not apply."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gemmstone.core.deployment import Deployment, Step, Workload
from gemmstone.core.errors import BadRequest
from gemmstone.core.work import Op
from gemmstone.graph import techniques
from gemmstone.graph.memory import caches
from gemmstone.graph.techniques.context_parallel import ContextParallel
from gemmstone.graph.techniques.distributed_kv import DistributedKv
from gemmstone.graph.techniques.eviction import Eviction
from gemmstone.graph.techniques.kivi import Kivi
from gemmstone.graph.techniques.lambda_attention import LambdaAttention
from gemmstone.graph.techniques.lora import Lora
from gemmstone.graph.techniques.nano_batch import NanoBatch
from gemmstone.graph.techniques.speculative import Speculative
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, load_model, system
from gemmstone.simulate.steady import closed_loop


def test_a_text_names_a_technique_and_its_settings() -> None:
    assert techniques.parse("eviction") == Eviction()
    assert techniques.parse(" eviction : budget = 12k ") == Eviction(budget=12_000)


@pytest.mark.parametrize(
    "text",
    ["evictions", "eviction:budget", "eviction:size=3", "eviction:budget=1.5", "eviction:budget=1,budget=2", ""],
)
def test_a_text_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        techniques.parse(text)


def test_the_same_technique_twice_is_refused() -> None:
    run = Deployment(engine="vllm", techniques=(Eviction(budget=10), Eviction(budget=20)))
    assert "twice" in techniques.problem(load_model("llama-3.1-8b"), run)


def test_eviction_bounds_what_attention_reads_and_what_is_kept() -> None:
    model, run = load_model("llama-3.1-8b"), Deployment(engine="vllm", techniques=(Eviction(budget=1000),))
    long, short = (techniques.built(model, run, Step(decode_seqs=4, decode_context=n)) for n in (100_000, 1000))
    read = [next(op.read_bytes for op in groups[1].ops if op.name == "decode_attention") for groups in (long, short)]
    assert read[0] == read[1]
    ((layers, cache),) = caches(model, run)
    assert layers == 32
    assert cache.bytes(100_000, 2.0) == cache.bytes(1000, 2.0) == 1000 * 2 * 8 * 128 * 2


def operations(model: str, run: Deployment, step: Step, *extras: object) -> dict[str, Op]:
    """The operations of the last group that has each, by name."""
    groups = techniques.built(load_model(model), replace(run, techniques=extras), step)
    return {op.name: op for group in groups for op in group.ops}


def why_not(model: str, settings: object, **run: object) -> str:
    return techniques.problem(load_model(model), Deployment(engine="vllm", techniques=(settings,), **run))


LLAMA = "llama-3.1-8b"  # 32 layers of width 4096, 32 heads and 8 KV heads of 128, 14,336 in between, 128,256 tokens
ONE = Deployment(engine="vllm")


def test_lambda_attention_reads_and_keeps_sinks_and_window() -> None:
    shape, step = LambdaAttention(sinks=4, window=996), Step(decode_seqs=2.0, decode_context=50_000.0)
    assert operations(LLAMA, ONE, step, shape)["decode_attention"].shape["context"] == 1000
    prompt = Step(prefill_seqs=1.0, prefill_tokens=3000.0)
    op = operations(LLAMA, ONE, prompt, shape)["prefill_attention"]
    # the first 1000 queries see 1 to 1000 keys, the other 2000 see 1000 each
    assert op.flop == 4 * 32 * 128 * (1000 * 1001 / 2 + 2000 * 1000)
    ((_, cache),) = caches(load_model(LLAMA), replace(ONE, techniques=(shape,)))
    assert cache.bytes(10**6, 2.0) == cache.bytes(1000, 2.0) == 1000 * 4096
    assert "plain attention" in why_not("deepseek-v3", shape)


def test_kivi_reads_the_old_tokens_in_three_bits() -> None:
    step = Step(decode_seqs=3.0, decode_context=1128.0)
    plain, packed = (operations(LLAMA, ONE, step, *x)["decode_attention"] for x in ((), (Kivi(),)))
    old_elements = 3 * 1000 * 2 * 8 * 128
    assert plain.read_bytes - packed.read_bytes == old_elements * (2.0 - 0.375)
    assert packed.flop - plain.flop == 2 * old_elements
    assert packed.shape["element_bytes"] == (1000 * 0.375 + 128 * 2.0) / 1128
    fresh = Step(decode_seqs=3.0, decode_context=100.0)
    assert operations(LLAMA, ONE, fresh, Kivi())["decode_attention"].shape["element_bytes"] == 2.0


def test_kivi_reads_earlier_chunks_in_three_bits() -> None:
    step = Step(prefill_seqs=2.0, prefill_tokens=512.0, prefill_past=1128.0)
    plain, packed = (operations(LLAMA, ONE, step, *x)["prefill_attention"] for x in ((), (Kivi(),)))
    token_elements = 2 * 2 * 8 * 128
    assert plain.read_bytes - packed.read_bytes == token_elements * 1000 * (2.0 - 0.375)
    assert plain.write_bytes - packed.write_bytes == token_elements * (512 - 128) * (2.0 - 0.375)


def test_kivi_says_why_not() -> None:
    assert "fp8" in why_not(LLAMA, Kivi(), kv_cache="fp8")
    assert "2 or 4 bits" in why_not(LLAMA, Kivi(bits=3))
    assert "does not keep" in why_not("deepseek-v3", Kivi())


def test_context_shards_halve_cache_and_reading() -> None:
    """Llama-3.1-8B over 16 ranks: two heads a rank, one KV head that another rank has as well."""
    run, step = Deployment(engine="vllm", tensor_parallel=16), Step(decode_seqs=5.0, decode_context=10_000.0)
    plain, split = (operations(LLAMA, run, step, *x) for x in ((), (ContextParallel(degree=2),)))
    before, after = plain["decode_attention"], split["decode_attention"]
    query_bytes = 5 * 2 * 128 * 2
    cache_bytes = 5 * 10_000 * 2 * 128 * 2
    assert before.read_bytes == query_bytes + cache_bytes
    assert after.read_bytes == 2 * query_bytes + cache_bytes / 2
    assert after.flop == before.flop  # twice the heads, half the tokens
    assert split["query_all_gather"].shape["message_bytes"] == 2 * query_bytes
    assert split["output_reduce_scatter"].shape["message_bytes"] == 2 * query_bytes
    assert split["sums_all_gather"].shape["message_bytes"] == 2 * (5 * 2 * 2 * 4)
    kept = [caches(load_model(LLAMA), replace(run, techniques=x))[0][1] for x in ((), (ContextParallel(degree=2),))]
    assert kept[0].bytes(1000, 2.0) == 2 * kept[1].bytes(1000, 2.0)


def test_context_shards_gather_what_is_cached_of_a_prompt() -> None:
    run = Deployment(engine="vllm", tensor_parallel=16)
    step = Step(prefill_seqs=1.0, prefill_tokens=512.0, prefill_past=2048.0)
    ops = operations(LLAMA, run, step, ContextParallel(degree=2))
    assert ops["cache_all_gather"].shape["message_bytes"] == 2048 * 2 * 128 * 2


def test_context_shards_of_a_latent_cache() -> None:
    """One latent of 512 + 64 a token on all eight ranks; 16 heads a rank, with drafts two queries each."""
    run, step = Deployment(engine="vllm", tensor_parallel=8), Step(decode_seqs=4.0, decode_context=8000.0)
    for extras, queries in (((), 1), ((Speculative(tokens=1),), 2)):
        plain = operations("deepseek-v3", run, step, *extras)["decode_attention"]
        split = operations("deepseek-v3", run, step, ContextParallel(degree=8), *extras)
        sent = 4 * queries * 16 * 576 * 2
        assert plain.read_bytes == sent + 4 * 8000 * 576 * 2
        assert split["decode_attention"].read_bytes == 8 * sent + 4 * 1000 * 576 * 2
        assert split["query_all_gather"].shape["message_bytes"] == 8 * sent
        assert split["output_reduce_scatter"].shape["message_bytes"] == 8 * 4 * queries * 16 * 512 * 2


def test_context_shards_need_copies_of_the_cache() -> None:
    settings = ContextParallel(degree=2)
    assert "divide tp 1" in why_not(LLAMA, settings)
    assert "makes 1" in why_not(LLAMA, settings, tensor_parallel=8)
    assert not why_not(LLAMA, settings, tensor_parallel=16)
    assert not why_not("deepseek-v3", replace(settings, degree=8), tensor_parallel=8)
    assert "divide tp 8" in why_not("deepseek-v3", replace(settings, degree=3), tensor_parallel=8)
    assert "full attention" in why_not("mistral-7b", settings, tensor_parallel=16)


def test_a_distributed_cache_needs_replicas_and_sends_prompts_once() -> None:
    assert "divides dp 1" in why_not(LLAMA, DistributedKv())
    assert "divides dp 4" in why_not(LLAMA, DistributedKv(instances=3), data_parallel=4)
    run = Deployment(engine="vllm", data_parallel=4)
    step = Step(prefill_seqs=1.0, prefill_tokens=1000.0)
    ops = operations(LLAMA, run, step, DistributedKv(instances=4))
    assert ops["cache_placement"].wire_bytes == 1000 * 2 * 8 * 128 * 2 * 3 / 4
    assert ops["prompt_partial_outputs"].wire_bytes == 0  # nothing is cached yet
    short, long = (
        operations(LLAMA, run, replace(step, prefill_past=past), DistributedKv(instances=4))["prompt_partial_outputs"]
        for past in (100.0, 1e6)
    )
    assert short.wire_bytes == 100 * 2 * 8 * 128 * 2 * 3 / 4  # the cache comes to the queries
    assert long.wire_bytes == 1000 * 32 * (4 * 128 + 8) * 3  # the queries go to the cache
    assert techniques.instances(replace(run, techniques=(DistributedKv(instances=4),))) == 4


def test_adapters_add_two_narrow_products() -> None:
    """Ten tokens of five sequences with three adapters of rank 16 among them, of seven in memory."""
    settings = Lora(adapters=7, active=3, rank=16, targets="q+v")
    ops = operations(LLAMA, ONE, Step(decode_seqs=10.0, decode_context=100.0), settings)
    shrink, expand = ops["qkv_proj_lora_shrink"], ops["qkv_proj_lora_expand"]
    assert shrink.flop == 2 * 10 * 4096 * 32  # two projections of rank 16
    assert expand.flop == 2 * 10 * 16 * (4096 + 1024)
    assert shrink.read_bytes == 2 * (10 * 4096 + 3 * 32 * 4096)
    assert expand.read_bytes == 2 * (10 * 32 + 10 * 5120 + 3 * 16 * 5120)
    assert shrink.weight_bytes + expand.weight_bytes == 7 * 2 * 16 * (4096 + 4096 + 4096 + 1024)
    assert "o_proj_lora_shrink" not in ops
    alone = operations(LLAMA, ONE, Step(decode_seqs=1.0, decode_context=100.0), settings)["qkv_proj_lora_shrink"]
    assert alone.read_bytes == 2 * (4096 + 32 * 4096)  # one sequence has one adapter


def test_adapters_of_the_feed_forward_block() -> None:
    ops = operations(LLAMA, ONE, Step(decode_seqs=1.0, decode_context=1.0), Lora(rank=8, targets="gate+up+down"))
    assert ops["gate_up_proj_lora_expand"].flop == 2 * 8 * 2 * 14_336
    assert ops["down_proj_lora_shrink"].flop == 2 * 8 * 14_336


def test_adapters_say_why_not() -> None:
    assert "'knee'" in why_not(LLAMA, Lora(targets="q+knee"))
    assert "no projection q" in why_not("deepseek-v3", Lora(targets="q"))
    assert "adapters" in why_not(LLAMA, Lora(adapters=2, active=3))
    assert "gate" in why_not("opt-13b", Lora(targets="gate+up"))


def test_drafts_of_another_model_run_as_often_as_there_are_tokens() -> None:
    settings = Speculative(tokens=3, accept=0.5, draft="llama-3.2-1b")
    step = Step(decode_seqs=4.0, decode_context=500.0)
    ops = operations(LLAMA, ONE, step, settings)
    own = operations("llama-3.2-1b", ONE, step)
    assert ops["qkv_proj"].shape["m"] == 4 * (3 + 1)  # what is verified
    first, later = ops["draft_qkv_proj"], ops["draft_later_qkv_proj"]
    assert first.flop == later.flop == own["qkv_proj"].flop
    assert (first.count, later.count) == (16, 32)  # layers, once and twice
    assert later.weight_bytes == 0
    assert first.weight_bytes == 16 * own["qkv_proj"].weight_bytes
    target, draft = caches(load_model(LLAMA), replace(ONE, techniques=(settings,)))
    assert target[0] * target[1].bytes(100, 2.0) == 100 * 131_072
    assert draft[0] * draft[1].bytes(100, 2.0) == 100 * 16 * 2 * 8 * 64 * 2


def test_drafted_tokens_take_room_in_a_step() -> None:
    """A budget of 2048 tokens, 200 sequences: with seven drafts each 1600 of them are taken, and a prompt of 1000 is cut."""
    plain, drafting = (
        system(
            Scenario(
                model=LLAMA,
                hardware="1xh100-sxm",
                engine="vllm",
                choice=Choice(max_num_batched_tokens=2048, techniques=extras),
            )
        )
        for extras in ((), (Speculative(tokens=7, draft="ngram"),))
    )
    assert techniques.decode_tokens(drafting.deployment) == 8
    work = Workload(input_tokens=1000, output_tokens=200, load=200)
    chunks = [
        closed_loop(made.timer, 1000.0, work, np.array([200.0])).prompt_steps.item() for made in (plain, drafting)
    ]
    assert chunks[1] > chunks[0]


def test_a_drafting_layer_shares_embedding_and_head() -> None:
    ops = operations(LLAMA, ONE, Step(decode_seqs=4.0, decode_context=500.0), Speculative(tokens=1))
    assert ops["draft_input_proj"].shape == {"m": 4.0, "n": 4096, "k": 8192, "quantize_bytes": 0.0}
    assert ops["draft_lm_head"].weight_bytes == ops["draft_embedding"].weight_bytes == 0
    layer = 4096 * 128 * (2 * 32 + 2 * 8) + 3 * 4096 * 14_336
    kept = sum(op.weight_bytes for name, op in ops.items() if name.startswith("draft"))
    assert kept == 2 * (layer + 2 * 4096**2)


def test_lookups_cost_nothing_and_gain_what_is_accepted() -> None:
    settings = Speculative(tokens=2, accept=0.5, draft="ngram")
    groups = techniques.built(load_model(LLAMA), replace(ONE, techniques=(settings,)), Step(decode_seqs=1.0))
    assert [group.name for group in groups] == ["embedding", "layers", "head"]
    assert techniques.tokens_per_step((settings,)) == 1.75


def test_drafts_say_why_not() -> None:
    assert "pp 1" in why_not(LLAMA, Speculative(), pipeline_parallel=2)
    assert "vocabulary" in why_not(LLAMA, Speculative(draft="llama-2-7b"))
    assert "0 to 1" in why_not(LLAMA, Speculative(accept=1.5))
    assert "1 to 64" in why_not(LLAMA, Speculative(tokens=0))
    with pytest.raises(BadRequest):
        why_not(LLAMA, Speculative(draft="no-such-model-anywhere"))


def test_nano_batches_halve_the_rows_and_run_twice() -> None:
    step = Step(decode_seqs=8.0, decode_context=100.0)
    groups = techniques.built(load_model(LLAMA), replace(ONE, techniques=(NanoBatch(),)), step)
    layers = next(group for group in groups if group.name == "layers")
    project = next(op for op in layers.ops if op.name == "qkv_proj")
    assert layers.overlapped
    assert (project.shape["m"], project.count) == (4.0, 2.0)
    head = next(op for group in groups if group.name == "head" for op in group.ops if op.name == "lm_head")
    assert (head.shape["m"], head.count) == (8.0, 1.0)
    assert "2 to 16" in why_not(LLAMA, NanoBatch(parts=1))


def test_notes_say_what_is_lost_and_what_is_assumed() -> None:
    run = Deployment(engine="vllm", techniques=(Kivi(), Speculative(), Lora()))
    lossy, assumed = techniques.notes(run)
    assert lossy.startswith("kivi changes the model's answers")
    assert assumed.startswith("speculative: the share of accepted tokens")

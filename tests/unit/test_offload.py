"""Work behind the device, by hand: bytes over a link, what overlaps, what lies where, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gemmstone import api
from gemmstone.core.deployment import Deployment, Step, Workload
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.estimate import Estimate
from gemmstone.core.hardware import Device, HostTier, Link
from gemmstone.graph import techniques
from gemmstone.graph.memory import memory
from gemmstone.ops import matmul, offload
from gemmstone.predict import host
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.scenario import Scenario, load_model, system
from gemmstone.simulate.steady import lengths
from gemmstone.simulate.system import System

KNOWN = ("link.host.bandwidth=25GB/s", "host.memory=256GB", "host.bandwidth=100GB/s", "host.peak.bf16=2TFLOP/s")
DRIVE = "storage.bandwidth=5GB/s"
DECODE = Step(decode_seqs=1.0, decode_context=1000.0)
LAYER_ELEMENTS = 4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 14_336  # of a layer of Llama-3.1-8B


def made(*names: str, model: str = "llama-3.1-8b", hardware: str = "1xh100-sxm", **changes: object) -> System:
    known = {"edits": (*KNOWN, DRIVE), "fidelity": "limit", "engine": "vllm"} | changes
    weights = known.pop("weights", None)
    choice = Choice(techniques=tuple(techniques.parse(name) for name in names), weights=weights)  # type: ignore[arg-type]
    return system(Scenario(model=model, hardware=hardware, choice=choice, **known))  # type: ignore[arg-type]


def leaves(tree: Estimate) -> dict[str, float]:
    """Seconds by name, all calls of a step together."""
    found: dict[str, float] = {}
    for leaf in tree.leaves():
        found[leaf.name] = found.get(leaf.name, 0.0) + float(np.ravel(leaf.time_s)[0])
    return found


def device(**changes: object) -> Device:
    tier = HostTier(
        memory_bytes=256e9,
        memory_bandwidth_bytes_per_s=100e9,
        peak_flop_per_s={"bf16": 2e12},
        storage_bandwidth_bytes_per_s=5e9,
    )
    usual = Device(
        slug="x", name="X", vendor="v", architecture="a", kind="gpu", peak_flop_per_s={"bf16": 1e15}, memory_bytes=80e9,
        memory_bandwidth_bytes_per_s=2e12, host=Link(bandwidth_bytes_per_s=32e9, latency_s=1e-5), host_tier=tier,
    )  # fmt: skip
    return replace(usual, **changes)  # type: ignore[arg-type]


class TestPrices:
    def test_a_copy_takes_its_bytes_over_the_link(self) -> None:
        op = offload.host_read("x", moved_bytes=64e9, count=3.0)
        assert float(host.price(op, device(), limit=True).time_s) == 3 * 2.0
        real = host.price(op, device(), limit=False)
        assert float(real.time_s) == pytest.approx(3 * (64e9 / 25e9 + 1e-5))  # 25 of 32 GB/s
        assert (real.source, real.bound()) == ("assumed", "host")
        assert float(real.bytes) == 3 * 64e9  # written into the device's memory

    def test_no_copy_is_faster_than_the_hosts_memory(self) -> None:
        fast = device(host=Link(bandwidth_bytes_per_s=450e9))
        assert float(host.price(offload.host_write("x", moved_bytes=200e9), fast, limit=True).time_s) == 2.0

    def test_a_drive_is_reached_through_the_host(self) -> None:
        read = offload.storage_read("x", moved_bytes=10e9)
        assert float(host.price(read, device(), limit=True).time_s) == 2.0
        slow = device(host=Link(bandwidth_bytes_per_s=1e9))
        assert float(host.price(read, slow, limit=True).time_s) == 10.0
        assert float(host.price(read, device(host=None), limit=True).time_s) == 2.0  # a drive of its own

    def test_work_of_the_processor_is_its_roofline(self) -> None:
        small = replace(matmul.gemm("x", m=1, n=10_000, k=10_000), tier="host")
        assert float(host.price(small, device(), limit=True).time_s) == pytest.approx((2e8 + 4e4) / 100e9)
        large = replace(matmul.gemm("x", m=1000, n=10_000, k=10_000), tier="host")
        found = host.price(large, device(), limit=True)
        assert float(found.time_s) == pytest.approx(2e11 / 2e12)
        assert float(found.energy_j) == float(found.flop) == float(found.bytes) == 0.0  # none of the device's
        real = float(host.price(large, device(), limit=False).time_s)
        assert real == pytest.approx(0.1 / (0.07 * 3.98))
        assert float(host.price(small, device(), limit=False).time_s) == pytest.approx(2.0004e8 / (150 / 204.8 * 1e11))

    def test_nothing_to_do_costs_nothing(self) -> None:
        assert float(host.price(offload.host_read("x", moved_bytes=0.0), device(), limit=False).time_s) == 0.0
        idle = replace(matmul.gemm("x", m=0, n=10, k=10), tier="host")
        assert float(host.price(idle, device(), limit=False).time_s) == 0.0

    @pytest.mark.parametrize(
        ("lacking", "op", "field"),
        [
            ({"host": None}, offload.host_read("x", moved_bytes=1.0), "link.host.bandwidth"),
            ({"host_tier": None}, offload.storage_read("x", moved_bytes=1.0), "storage.bandwidth"),
            ({"host_tier": None}, replace(matmul.gemm("x", m=1, n=1, k=1), tier="host"), "host.bandwidth"),
            (
                {"host_tier": HostTier(memory_bandwidth_bytes_per_s=1e9)},
                replace(matmul.gemm("x", m=1, n=1, k=1), tier="host"),
                "host.peak.bf16",
            ),
        ],
    )
    def test_what_is_not_known_is_asked_for(self, lacking: dict[str, object], op: object, field: str) -> None:
        with pytest.raises(BadRequest, match=f"--set {field}="):
            host.price(op, device(**lacking), limit=True)  # type: ignore[arg-type]


class TestWeights:
    def test_bytes_over_the_link_beside_the_layers(self) -> None:
        tree = made("weight-offload:size_bytes=5GB").timer.estimate(DECODE)
        times = leaves(tree)
        assert times["weights_from_host"] == pytest.approx(5e9 / 25e9)
        ends = times["embedding"] + times["final_norm"] + times["lm_head"] + times["sampling"]
        assert float(tree.time_s[0]) == pytest.approx(0.2 + ends)
        assert tree.bound() == "host"

    def test_little_is_hidden_behind_computing(self) -> None:
        plain, some = (made(*names).timer.seconds(DECODE)[0] for names in ((), ("weight-offload:size_bytes=50MB",)))
        assert some == plain  # 2 ms over the link, 4 ms of layers

    def test_what_lies_where(self) -> None:
        plain, found = made().memory, made("weight-offload:size_bytes=5GB").memory
        assert found.host_tree is not None
        assert found.host_tree.bytes == pytest.approx(5e9)
        # the parts of two of 32 layers have a place on the device
        assert found.tree.bytes == pytest.approx(plain.tree.bytes - 5e9 * (1 - 2 / 32))
        assert found.sequences(1000) > plain.sequences(1000)

    def test_a_drive(self) -> None:
        times = leaves(made("weight-offload:size_bytes=5GB,tier=storage").timer.estimate(DECODE))
        assert times["weights_from_storage"] == pytest.approx(1.0)

    def test_more_than_the_layers_is_the_layers(self) -> None:
        found = made("weight-offload:size_bytes=1TB").memory.host_tree
        assert found is not None
        assert found.bytes == pytest.approx(32 * LAYER_ELEMENTS * 2)

    def test_a_stages_share(self) -> None:
        """Each of two devices gives 5 GB away: 10 GB travel while a micro-batch goes through both."""
        choice = Choice(pipeline_parallel=2, techniques=(techniques.parse("weight-offload:size_bytes=5GB"),))
        two = system(
            Scenario(model="llama-3.1-8b", hardware="2xh100-sxm", edits=KNOWN, fidelity="limit", choice=choice)
        )
        assert two.memory.host_tree is not None
        assert two.memory.host_tree.bytes == pytest.approx(5e9)
        assert leaves(two.timer.estimate(DECODE))["weights_from_host"] == pytest.approx(10e9 / 25e9)

    def test_what_fits_stays(self) -> None:
        assert made("weight-offload").deployment.techniques == made("weight-offload:size_bytes=0").deployment.techniques
        assert made("weight-offload").memory.tree == made().memory.tree

    def test_as_much_as_the_cache_of_a_full_step_needs(self) -> None:
        found = made("weight-offload", model="llama-3.1-70b").memory
        tokens = made("weight-offload", model="llama-3.1-70b").deployment.max_num_batched_tokens
        assert found.short_bytes(tokens) == pytest.approx(0.0, abs=1.0)
        assert found.sequences(tokens) == pytest.approx(1.0)

    def test_a_host_that_is_too_small_is_shown(self) -> None:
        with pytest.raises(NoAnswer, match=r"73\.3 GB are needed a device in the host's memory and 8\.0 GB") as refused:
            made("weight-offload", model="llama-3.1-70b", edits=("host.memory=8GB",))
        assert refused.value.detail["name"] == "host"

    def test_a_host_that_is_not_known_holds_weights_and_no_cache(self) -> None:
        found = made("weight-offload", model="llama-3.1-70b", edits=()).memory
        assert found.host_tree is not None
        assert found.host_usable_bytes == found.host_tree.bytes == pytest.approx(73.3e9, rel=1e-3)
        with pytest.raises(BadRequest, match=r"--set host\.memory=256GB"):
            made("kv-offload", edits=())

    @pytest.mark.parametrize("text", ["weight-offload:tier=tape", "weight-offload:size_bytes=-1GB"])
    def test_settings_no_one_can_mean(self, text: str) -> None:
        with pytest.raises(BadRequest):
            made(text)


EXPERT_BYTES = 3 * 2048 * 768 * 2  # of one of the 128 experts of Qwen3-30B-A3B, of which a token takes 8


class TestExperts:
    model = "qwen3-30b-a3b"

    def test_computed_on_the_host(self) -> None:
        found = made("expert-offload:layers=48", model=self.model)
        times = leaves(found.timer.estimate(DECODE))
        per_layer = 8 * EXPERT_BYTES + 8 * (2048 + 768) * 2 + 8 * (2 * 768 + 2048) * 2
        assert times["experts"] == pytest.approx(48 * per_layer / 100e9)
        assert times["tokens_to_host"] == times["results_from_host"] == pytest.approx(48 * 2048 * 2 / 25e9)
        assert found.memory.host_tree is not None
        assert found.memory.host_tree.bytes == pytest.approx(48 * 128 * EXPERT_BYTES)
        plain = made(model=self.model).memory.tree.bytes
        assert found.memory.tree.bytes == pytest.approx(plain - 48 * 128 * EXPERT_BYTES)

    def test_prompts_are_computed_where_it_is_faster(self) -> None:
        """4096 tokens: 30 times the arithmetic of the host's roofline; all experts come over the link instead."""
        prompt = Step(prefill_seqs=1.0, prefill_tokens=4096.0)
        there = leaves(made("expert-offload:layers=48", model=self.model).timer.estimate(prompt))["experts"]
        here = leaves(made(model=self.model).timer.estimate(prompt))["experts"]
        assert there == pytest.approx(48 * 128 * EXPERT_BYTES / 25e9 + here, rel=1e-3)
        assert there < 48 * 4096 * 8 * 6 * 2048 * 768 / 2e12

    def test_fetched_on_demand(self) -> None:
        found = made("expert-offload:layers=24,compute=device", model=self.model)
        tree = found.timer.estimate(DECODE)
        assert leaves(tree)["experts_from_host"] == pytest.approx(24 * 8 * EXPERT_BYTES / 25e9)
        plain = made(model=self.model).timer.seconds(DECODE)[0]
        assert float(tree.time_s[0]) == pytest.approx(plain + 24 * 8 * EXPERT_BYTES / 25e9)  # one after the other
        arriving = 128 * EXPERT_BYTES
        assert found.memory.tree.bytes == pytest.approx(
            made(model=self.model).memory.tree.bytes - 24 * 128 * EXPERT_BYTES + arriving
        )

    def test_a_cache_of_hot_experts(self) -> None:
        text = "expert-offload:layers=48,compute=device,cached=0.25"
        uniform, hot = (made(name, model=self.model) for name in (text, f"{text},hit=0.9"))
        fetched = [leaves(each.timer.estimate(DECODE))["experts_from_host"] for each in (uniform, hot)]
        assert fetched == pytest.approx([48 * 8 * EXPERT_BYTES * missed / 25e9 for missed in (0.75, 0.1)])
        kept = 12 * 128 * EXPERT_BYTES + 0.75 * 128 * EXPERT_BYTES  # a quarter of 48 layers, and what arrives
        plain = made(model=self.model).memory.tree.bytes
        assert uniform.memory.tree.bytes == pytest.approx(plain - 48 * 128 * EXPERT_BYTES + kept)

    def test_only_as_many_layers_as_need_be(self) -> None:
        found = made("expert-offload", model=self.model, edits=(*KNOWN, "memory.capacity=48GB"))
        (settings,) = found.deployment.techniques
        assert 0 < settings.layers < 48  # type: ignore[attr-defined]
        tokens = found.deployment.max_num_batched_tokens
        assert -2 * 128 * EXPERT_BYTES < found.memory.short_bytes(tokens) <= 0

    @pytest.mark.parametrize(
        "text",
        ["tier=storage,compute=host", "cached=0.5", "hit=0.5,compute=device", "cached=2,compute=device", "tier=tape"],
    )
    def test_settings_no_one_can_mean(self, text: str) -> None:
        with pytest.raises(BadRequest):
            made(f"expert-offload:{text}", model=self.model)

    def test_models_without_experts(self) -> None:
        with pytest.raises(BadRequest, match="weight-offload"):
            made("expert-offload")


KV_BYTES = 2 * 8 * 128 * 2  # of a token and a layer of Llama-3.1-8B


class TestCache:
    def test_the_hosts_memory_holds_it(self) -> None:
        found = made("kv-offload:compute=host").memory
        assert found.sequence_bytes(1000.0) == 0.0
        assert found.sequences(1000.0) == pytest.approx(256e9 / (1000 * 32 * KV_BYTES))

    def test_two_layers_of_it_have_a_place_on_the_device(self) -> None:
        found = made("kv-offload").memory
        assert found.sequence_bytes(1000.0) == 2 * 1000 * KV_BYTES
        assert found.sequences(1000.0) == pytest.approx(256e9 / (1000 * 32 * KV_BYTES))
        assert found.sequences(1000.0) > made().memory.sequences(1000.0)

    def test_streamed_in_every_step(self) -> None:
        step = Step(decode_seqs=64.0, decode_context=4000.0)
        tree = made("kv-offload").timer.estimate(step)
        assert leaves(tree)["cache_over_link"] == pytest.approx(64 * 4000 * 32 * KV_BYTES / 25e9)
        assert tree.bound() == "host"

    def test_prompts_leave_theirs(self) -> None:
        step = Step(prefill_seqs=2.0, prefill_tokens=4000.0, prefill_past=1000.0)
        for text in ("kv-offload", "kv-offload:compute=host"):
            times = leaves(made(text).timer.estimate(step))
            assert times["cache_over_link"] == pytest.approx(2 * 4000 * 32 * KV_BYTES / 25e9)

    def test_attended_to_by_the_host(self) -> None:
        step = Step(decode_seqs=64.0, decode_context=4000.0)
        times = leaves(made("kv-offload:compute=host").timer.estimate(step))
        queries, entries = 64 * 32 * 128 * 2, 64 * KV_BYTES
        moved = 64 * 4000 * KV_BYTES + 2 * queries + entries
        assert times["decode_attention"] == pytest.approx(32 * moved / 100e9)
        assert times["queries_to_host"] == pytest.approx(32 * (queries + entries) / 25e9)
        assert times["outputs_from_host"] == pytest.approx(32 * queries / 25e9)
        assert times["cache_over_link"] == 0.0

    @pytest.mark.parametrize("other", ["kivi", "nano-batch"])
    def test_not_modelled_together(self, other: str) -> None:
        with pytest.raises(BadRequest, match="not modelled"):
            made("kv-offload", other)

    def test_parts_of_a_batch_on_the_host_beside_the_device(self) -> None:
        """Attention on the host and the products on the device at the same time: no longer than one after the other."""
        step = Step(decode_seqs=256.0, decode_context=2000.0)
        alone, beside = (
            made(*names).timer.seconds(step)[0]
            for names in (("kv-offload:compute=host",), ("kv-offload:compute=host", "nano-batch"))
        )
        assert beside < alone


class TestLayers:
    def test_a_quarter_of_them(self) -> None:
        found = made("host-split:host_layers=8", engine="llamacpp")
        tree = found.timer.estimate(DECODE)
        plain = leaves(made(engine="llamacpp").timer.estimate(DECODE))
        times = leaves(tree)
        down = (4096 * 14_336 + 4096 + 14_336) * 2 / 100e9
        assert times["down_proj"] == pytest.approx(8 * down + 0.75 * plain["down_proj"])
        assert times["tokens_to_host"] == pytest.approx(4096 * 2 / 25e9)
        assert times["lm_head"] == plain["lm_head"]

    def test_weights_and_cache_go_along(self) -> None:
        plain, found = (made(*names, engine="llamacpp").memory for names in ((), ("host-split:host_layers=8",)))
        assert found.host_tree is not None
        assert found.host_tree.bytes == pytest.approx(8 * LAYER_ELEMENTS * 2)
        assert found.tree.bytes == pytest.approx(plain.tree.bytes - 8 * LAYER_ELEMENTS * 2)
        assert found.sequence_bytes(100.0) == pytest.approx(24 * 100 * KV_BYTES)
        assert found.sequence_bytes(100.0, "host") == pytest.approx(8 * 100 * KV_BYTES)

    def test_only_as_many_as_need_be(self) -> None:
        found = made("host-split", engine="llamacpp", edits=(*KNOWN, "memory.capacity=16GB"))
        (settings,) = found.deployment.techniques
        one_less = replace(settings, host_layers=settings.host_layers - 1)  # type: ignore[type-var,attr-defined]
        fewer = memory(found.model, found.cluster.device, replace(found.deployment, techniques=(one_less,)))
        tokens = found.deployment.max_num_batched_tokens
        assert found.memory.short_bytes(tokens) <= 0 < fewer.short_bytes(tokens)

    def test_whole_layers_only(self) -> None:
        with pytest.raises(BadRequest, match="pipeline"):
            made("host-split:host_layers=4", hardware="2xh100-sxm")
        with pytest.raises(BadRequest, match="leave the other"):
            made("host-split:host_layers=4", "weight-offload:size_bytes=1GB")
        with pytest.raises(BadRequest, match="0 to 32"):
            made("host-split:host_layers=33")


class TestRefusals:
    def test_names_what_would_make_it_fit(self) -> None:
        with pytest.raises(NoAnswer, match=r"--technique weight-offload$"):
            made(model="llama-3.1-70b")
        with pytest.raises(NoAnswer, match=r"--technique expert-offload or --technique weight-offload$"):
            made(model="mixtral-8x22b")

    def test_not_what_is_too_small_or_unknown(self) -> None:
        for edits in ((), ("host.memory=8GB",)):
            with pytest.raises(NoAnswer) as refused:
                made(model="llama-3.1-70b", edits=edits)
            assert "offload" not in str(refused.value)

    def test_drives_where_the_host_does_not_help(self) -> None:
        with pytest.raises(NoAnswer, match=r"--technique weight-offload:tier=storage$"):
            made(model="llama-3.1-70b", edits=("host.memory=8GB", DRIVE))


def test_order_of_techniques_does_not_matter() -> None:
    model = load_model("mixtral-8x7b")
    names = ("weight-offload:size_bytes=20GB", "kv-offload:compute=host", "expert-offload:layers=4")
    runs = [
        Deployment(engine="vllm", techniques=tuple(techniques.parse(name) for name in order))
        for order in (names, names[::-1])
    ]
    one, other = (techniques.built(model, run, DECODE) for run in runs)
    assert [group.name for group in one] == [group.name for group in other]


def test_slots_grow_with_a_cache_on_the_host() -> None:
    size = lengths(Workload(input_tokens=4000, output_tokens=1000), 0.0)
    assert made("kv-offload").slots(size) > made().slots(size)


def test_the_answer_shows_what_lies_on_the_host() -> None:
    techniques_of = tuple(
        techniques.parse(name) for name in ("weight-offload:size_bytes=5GB", "kv-offload:compute=host")
    )
    scenario = Scenario(
        model="llama-3.1-8b",
        hardware="1xh100-sxm",
        edits=KNOWN,
        choice=Choice(techniques=techniques_of),
        workload=Workload(input_tokens=900, output_tokens=200, load=4),
    )
    found = api.predict(scenario)
    parts = {part["name"]: part["bytes"] for part in found["host_memory"]["parts"]}
    assert parts["weights"] == pytest.approx(5e9)
    assert parts["kv cache"] == pytest.approx(4 * 1000 * 32 * KV_BYTES, rel=1e-3)
    assert sum(parts.values()) == pytest.approx(256e9)
    assert next(part["bytes"] for part in found["memory"]["parts"] if part["name"] == "kv cache") == 0.0
    assert api.predict(replace(scenario, choice=Choice()))["host_memory"] is None

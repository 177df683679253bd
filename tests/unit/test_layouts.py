"""The deployments a plan looks at: every split of the devices once, within a node's reach, in the formats that may help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemmstone.catalog import device_files, engine_files, model_files
from gemmstone.graph.families import build_model
from gemmstone.plan.layouts import MOST_STAGES, choices, last_resort, splits
from gemmstone.predict.deploy import Choice

DENSE = build_model(model_files.find("llama-3.1-8b"))
EXPERTS = build_model(model_files.find("qwen3-30b-a3b"))  # 128 experts


def tried(model, hardware: str, engine: str = "vllm", weights=(), caches=()) -> list[Choice]:
    cluster = device_files.cluster(hardware)
    return list(choices(model, cluster, engine_files.find(engine), weights, caches, Choice()))


class TestSplits:
    @pytest.mark.parametrize("hardware", ["h100-sxm", "6xh100-sxm", "8xh100-sxm", "32xh100-sxm", "7xl40s"])
    @pytest.mark.parametrize("model", [DENSE, EXPERTS], ids=["dense", "experts"])
    def test_each_uses_all_devices_and_comes_once(self, model, hardware):
        cluster = device_files.cluster(hardware)
        found = list(splits(model, cluster))
        assert len(found) == len(set(found))
        for tp, pp, dp, ep, adp in found:
            assert tp * pp * dp * adp == cluster.num_devices
            assert tp <= cluster.devices_per_node
            assert tp * adp <= cluster.devices_per_node or ep == tp * adp
            assert pp <= MOST_STAGES
            assert ep in (1, tp * adp)

    def test_all_splits_of_four_devices(self):
        """tp x pp x dp = 4: the ordered ways to write 4 as a product of three."""
        found = {(tp, pp, dp) for tp, pp, dp, _, _ in splits(DENSE, device_files.cluster("4xh100-sxm"))}
        assert found == {(4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 1), (2, 1, 2), (1, 2, 2)}

    def test_a_dense_model_has_no_experts_to_spread(self):
        assert {(ep, adp) for *_, ep, adp in splits(DENSE, device_files.cluster("8xh100-sxm"))} == {(1, 1)}

    def test_experts_by_tensor_or_by_expert_and_attention_by_tensor_or_by_data(self):
        stage_of_two = {s for s in splits(EXPERTS, device_files.cluster("2xh100-sxm")) if s[1] == s[2] == 1}
        assert stage_of_two == {(2, 1, 1, 1, 1), (2, 1, 1, 2, 1), (1, 1, 1, 1, 2), (1, 1, 1, 2, 2)}

    def test_experts_that_do_not_divide_are_not_spread(self):
        """128 experts do not go into three equal parts."""
        spread = {(tp * adp, ep) for tp, _, _, ep, adp in splits(EXPERTS, device_files.cluster("6xh100-sxm"))}
        assert (3, 3) not in spread
        assert (2, 2) in spread

    def test_tensor_groups_stay_in_a_node_and_stages_cross_it(self):
        found = list(splits(DENSE, device_files.cluster("16xh100-sxm")))
        assert max(tp for tp, *_ in found) == 8
        assert (8, 2, 1, 1, 1) in found

    def test_experts_spread_over_nodes_with_attention_by_data(self):
        beyond = {s for s in splits(EXPERTS, device_files.cluster("16xh100-sxm")) if s[0] * s[4] > 8}
        assert beyond == {(tp, 1, 1, 16, 16 // tp) for tp in (1, 2, 4, 8)}

    def test_no_stage_leaves_a_node_without_a_link_between_nodes(self):
        cluster = device_files.cluster("16xh100-sxm")
        alone = replace(cluster, device=replace(cluster.device, scale_out=None))
        assert max(tp * adp for tp, *_, adp in splits(EXPERTS, alone)) == 8

    def test_the_number_of_splits_stays_small_on_many_nodes(self):
        assert len(list(splits(EXPERTS, device_files.cluster("128xh100-sxm")))) < 200


class TestFormats:
    def test_narrower_ones_are_tried_where_they_may_help(self):
        """In nvfp4 where the device computes in it; in fp8 wherever the engine reads it, as weights alone on an A100."""
        assert {choice.weights for choice in tried(DENSE, "h100-sxm")} == {None, "fp8"}
        assert {choice.weights for choice in tried(DENSE, "b200-sxm")} == {None, "fp8", "nvfp4"}
        assert {choice.weights for choice in tried(DENSE, "a100-sxm-80gb")} == {None, "fp8"}
        assert {choice.weights for choice in tried(DENSE, "a100-sxm-80gb", engine="trtllm")} == {None}

    def test_the_last_resort_is_four_bits_where_the_engine_reads_them(self):
        def narrowest(model, hardware: str, engine: str) -> tuple[str, ...]:
            return last_resort(model, device_files.cluster(hardware), engine_files.find(engine))

        assert narrowest(DENSE, "rtx-4090", "vllm") == ("int4",)
        assert narrowest(DENSE, "rtx-4090", "llamacpp") == ("q4_k_m",)
        assert narrowest(DENSE, "mi300x", "vllm") == ()

    def test_a_checkpoint_in_fp8_is_not_quantised_to_fp8_again(self):
        stored_in_fp8 = build_model(model_files.find("deepseek-v3"))
        assert {choice.weights for choice in tried(stored_in_fp8, "8xh200-sxm")} == {None}

    def test_what_was_named_is_all_that_is_tried(self):
        named = tried(DENSE, "2xh100-sxm", weights=("bf16", "int4"), caches=("fp8",))
        assert {(choice.weights, choice.kv_cache) for choice in named} == {("bf16", "fp8"), ("int4", "fp8")}

    def test_what_is_common_is_in_every_choice(self):
        cluster, engine = device_files.cluster("4xh100-sxm"), engine_files.find("vllm")
        common = Choice(
            activations="bf16", max_num_batched_tokens=4096, gpu_memory_utilization=0.8, prefix_hit_frac=0.5
        )
        for choice in choices(DENSE, cluster, engine, (), (), common):
            assert choice.activations == "bf16"
            assert choice.max_num_batched_tokens == 4096
            assert choice.gpu_memory_utilization == 0.8
            assert choice.prefix_hit_frac == 0.5

    def test_llama_cpp_is_asked_for_eight_bits_and_others_not_for_its_formats(self):
        found = {choice.weights for choice in tried(DENSE, "m3-ultra", "llamacpp")}
        assert found == {None, "q8_0"}
        assert "q8_0" not in {choice.weights for choice in tried(DENSE, "h100-sxm", "vllm")}

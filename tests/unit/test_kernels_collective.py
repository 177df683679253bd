"""The time of messages between devices and of kernels that move bytes: by hand, at limits, and against measurements."""

from dataclasses import replace

import numpy as np
import pytest

from gemmstone.calibrate.tables import rates as rates_of
from gemmstone.catalog import calibration_files, device_files
from gemmstone.catalog.device_edit import edit
from gemmstone.core.calibration import Rates
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Cluster, Device, Link
from gemmstone.ops import collective as ops
from gemmstone.ops import elementwise as elementwise_ops
from gemmstone.predict.kernels.collective import PASSES, collective, traffic, with_links
from gemmstone.predict.kernels.elementwise import elementwise
from gemmstone.predict.pricing import Pricing

# 100 GB/s between the devices of a node of 8, 10 GB/s between nodes with 2 us a hop
RATES = Rates(
    flop_per_s=1.0, bytes_per_s=1e12, link_bytes_per_s=1e11, link_latency_s=0.0, compute_units=1.0,
    outer_bytes_per_s=1e10, outer_latency_s=2e-6, node_devices=8.0,
)  # fmt: skip
PLAIN = {"t0": 1e-6, "a1": 0.0, "e1": 0.1, "t2": 1e-5, "a2": 0.0, "eb": 1.0, "z": 0.0, "q": 50.0, "tn": 3e-6, "en": 0.5}
BUILD = {
    "all_reduce": ops.all_reduce,
    "all_gather": ops.all_gather,
    "reduce_scatter": ops.reduce_scatter,
    "all_to_all": ops.all_to_all,
    "send_recv": ops.send_recv,
}


def seconds(kind, message_bytes, ranks, rates=RATES, **changed):
    return float(
        collective(BUILD[kind]("c", message_bytes=message_bytes, ranks=ranks), rates, {**PLAIN, **changed}).time_s
    )


def test_every_collective_has_a_form():
    assert set(PASSES) == set(BUILD)


@pytest.mark.parametrize(
    ("kind", "wire_share"),
    [
        ("all_reduce", 2 * 7 / 8),
        ("all_gather", 7 / 8),
        ("reduce_scatter", 7 / 8),
        ("all_to_all", 7 / 8),
        ("send_recv", 1.0),
    ],
)
def test_a_large_message_is_limited_by_the_link(kind, wire_share):
    """10 GB over 100 GB/s: 0.1 s for each time the whole message passes a device's link."""
    assert seconds(kind, 1e10, 8) == pytest.approx(0.1 * wire_share, rel=1e-3)


def test_small_groups_lose_part_of_the_link():
    """z = 0.4 leaves 80% of the link to two ranks and 95% to eight."""
    assert seconds("all_gather", 1e10, 2, z=0.4) == pytest.approx(0.1 * 1 / 2 / 0.8, rel=1e-3)
    assert seconds("all_gather", 1e10, 8, z=0.4) == pytest.approx(0.1 * 7 / 8 / 0.95, rel=1e-3)


@pytest.mark.parametrize("kind", BUILD)
def test_an_empty_message_is_latency(kind):
    assert seconds(kind, 0.0, 8) == pytest.approx(1e-6)


def test_one_shot_all_reduce_fetches_every_message():
    """8 kB from each of 7 others at a tenth of the link: 5.7 us, sooner than the 10 us that many steps start with."""
    assert seconds("all_reduce", 8192, 8) == pytest.approx(1e-6 + 7 * 8192 / 1e10, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "outside_bytes", "rounds"),
    [
        ("all_reduce", 2 * 1 / 2 * 1e10 / 8, 2),  # each device sums its eighth with the other node
        ("all_gather", 1 / 2 * 1e10 / 8, 1),
        ("reduce_scatter", 1 / 2 * 1e10 / 8, 1),
        ("all_to_all", 1 / 2 * 1e10, 1),  # half of everything goes to the other node
        ("send_recv", 1e10, 1),
    ],
)
def test_two_nodes_are_limited_by_the_network(kind, outside_bytes, rounds):
    """Half of 10 GB/s between nodes, and a hop of 2 + 3 us per round."""
    assert seconds(kind, 1e10, 16) == pytest.approx(outside_bytes / 5e9 + rounds * 5e-6, rel=1e-6)


def test_rounds_between_nodes_grow_with_the_logarithm():
    assert seconds("all_gather", 0.0, 64) - seconds("all_gather", 0.0, 8) == pytest.approx(3 * 5e-6)
    assert seconds("all_reduce", 0.0, 64) - seconds("all_reduce", 0.0, 8) == pytest.approx(6 * 5e-6)


@pytest.mark.parametrize("kind", BUILD)
def test_more_bytes_more_ranks_never_faster_and_more_bandwidth_never_slower(kind):
    sizes = np.logspace(2, 10, 30)
    for ranks in (2, 4, 8, 16, 64, 72):
        op = BUILD[kind]("c", message_bytes=sizes, ranks=ranks)
        time_s = collective(op, RATES, PLAIN).time_s
        assert time_s.shape == (30,)
        assert (np.diff(time_s) > 0).all()
        for name in ("link_bytes_per_s", "outer_bytes_per_s"):
            wider = RATES._replace(**{name: 2 * getattr(RATES, name)})
            assert (collective(op, wider, PLAIN).time_s <= time_s).all()


def test_parts_add_up():
    timed = collective(ops.all_reduce("c", message_bytes=np.logspace(2, 9, 8), ranks=16), RATES, PLAIN)
    assert np.allclose(timed.network_s + timed.launch_s, timed.time_s)
    assert (np.asarray(timed.network_s) >= 0).all()


def device(**links):
    return Device(
        slug="d", name="d", vendor="v", architecture="a", kind="gpu", peak_flop_per_s={"bf16": 1.0}, memory_bytes=1.0,
        memory_bandwidth_bytes_per_s=1.0, **links,
    )  # fmt: skip


def test_links_of_a_cluster():
    inside, outside, host = (
        Link(bandwidth_bytes_per_s=9.0, domain=8),
        Link(bandwidth_bytes_per_s=2.0),
        Link(bandwidth_bytes_per_s=3.0),
    )
    both = with_links(
        RATES, Cluster(device=device(scale_up=inside, scale_out=outside), num_devices=16, devices_per_node=8)
    )
    assert (both.link_bytes_per_s, both.outer_bytes_per_s, both.node_devices) == (9.0, 2.0, 8.0)
    cards = with_links(RATES, Cluster(device=device(host=host), num_devices=4, devices_per_node=1))
    assert (cards.link_bytes_per_s, cards.outer_bytes_per_s, cards.node_devices) == (3.0, 0.0, 8.0)
    pairs = replace(inside, domain=2)
    bridged = with_links(RATES, Cluster(device=device(scale_up=pairs, host=host), num_devices=4, devices_per_node=2))
    assert (bridged.link_bytes_per_s, bridged.outer_bytes_per_s, bridged.node_devices) == (9.0, 3.0, 2.0)
    fused = Link(bandwidth_bytes_per_s=450e9)
    assert (
        with_links(RATES, Cluster(device=device(host=fused), num_devices=2, devices_per_node=1)).link_bytes_per_s == 0.0
    )


# Microseconds from the tables of aiconfigurator-core 0.12.0 (Apache-2.0), systems/data/GPU/comm; message in bytes. The
# tolerance is three times the spread of the kernel's error on unseen sizes.
MEASURED = [
    ("h100-sxm", "vllm", "all_reduce", 2, 16384, 4.493),
    ("h100-sxm", "vllm", "all_reduce", 8, 16384, 5.310),
    ("h100-sxm", "vllm", "all_reduce", 8, 1048576, 14.968),
    ("h100-sxm", "vllm", "all_reduce", 8, 134217728, 577.395),
    ("b200-sxm", "nccl", "all_reduce", 8, 16384, 26.550),
    ("b200-sxm", "nccl", "all_reduce", 8, 134217728, 398.370),
    ("b200-sxm", "nccl", "all_gather", 8, 134217728, 206.750),
    ("b200-sxm", "nccl", "reduce_scatter", 8, 134217728, 208.040),
    ("b200-sxm", "nccl", "all_to_all", 8, 134217728, 236.590),
]


@pytest.mark.parametrize(("name", "engine", "kind", "ranks", "message_bytes", "measured_us"), MEASURED)
def test_shipped_coefficients_meet_measured_collectives(name, engine, kind, ranks, message_bytes, measured_us):
    (fit,) = [f for f in calibration_files.load(name) if (f.family, f.engine, f.variant) == (kind, engine, "bf16")]
    op = BUILD[kind]("c", message_bytes=message_bytes, ranks=ranks)
    predicted = float(collective(op, rates_of(device_files.find(name), "bf16"), fit.coefficients).time_s)
    print(f"{name} {kind} {ranks} ranks {message_bytes} B: {predicted * 1e6:.1f} us, measured {measured_us:.1f}")
    assert abs(np.log(predicted * 1e6 / measured_us)) < 3 * fit.error_frac


# Microseconds of two to four V100 on PCI Express 3.0 that exchange through the host's memory, from APEX+'s profiles
# (github.com/microsoft/apex_plus@8769096536, profile/comm, MIT). No coefficient was fitted to them: they are of all-reduces over
# two RTX PRO 6000 on PCI Express 5.0.
THROUGH_THE_HOST = [
    ("all_reduce", 2, 1 << 20, 302.4),
    ("all_reduce", 2, 1 << 28, 71_418.0),
    ("all_reduce", 4, 1 << 21, 729.1),
    ("all_reduce", 4, 1 << 28, 90_236.0),
    ("all_gather", 2, 1 << 28, 43_978.0),
    ("all_gather", 4, 1 << 28, 49_011.0),
    ("reduce_scatter", 4, 1 << 28, 47_954.0),
    ("all_to_all", 4, 1 << 28, 43_327.0),
    ("send_recv", 2, 1 << 28, 61_048.0),
]


@pytest.mark.parametrize(("kind", "ranks", "message_bytes", "measured_us"), THROUGH_THE_HOST)
def test_messages_through_the_host_of_a_device_that_was_not_fitted(kind, ranks, message_bytes, measured_us):
    pricing = Pricing(cluster=device_files.cluster(f"{ranks}x v100-pcie-16gb"), engine="nccl")
    predicted = float(pricing.price(BUILD[kind]("c", message_bytes=message_bytes, ranks=ranks)).time_s)
    print(f"{kind} {ranks} ranks {message_bytes} B: {predicted * 1e6:.0f} us, measured {measured_us:.0f}")
    assert predicted * 1e6 == pytest.approx(measured_us, rel=0.25)


def test_the_path_of_a_link_is_a_setting_and_a_bridge_passes_the_host_by():
    cluster = device_files.cluster("2x rtx-pro-6000")
    op = ops.all_reduce("c", message_bytes=1 << 26, ranks=2)

    def milliseconds(*changes):
        device = cluster.device
        for change in changes:
            device = edit(device, change)
        return float(Pricing(cluster=replace(cluster, device=device), engine="nccl").price(op).time_s) * 1e3

    # measured: 4.41 ms where cards cannot reach each other's memory, 1.84 ms where they can
    assert milliseconds() == pytest.approx(4.41, rel=0.05)
    assert milliseconds("link.scale_up.path=peers") == pytest.approx(1.84, rel=0.1)
    assert milliseconds("link.scale_up.bandwidth=300GB/s") < 1.0
    with pytest.raises(BadRequest, match="peers or host"):
        milliseconds("link.scale_up.path=switch")
    with pytest.raises(BadRequest, match=r"link\.scale_up\.bandwidth first"):
        edit(replace(cluster.device, scale_up=None), "link.scale_up.path=host")


# DeepEP's low-latency kernels on H100 with 400 Gb/s of InfiniBand per GPU, hidden 7168, eight experts a token, from the
# same package, comm/sglang/0.5.6.post2/wideep_deepep_ll: nodes, tokens a rank, microseconds.
ACROSS_NODES = [
    (2, 256, "dispatch", 183.03),
    (8, 256, "dispatch", 301.13),
    (2, 128, "combine", 186.17),
    (8, 256, "combine", 579.53),
]


@pytest.mark.parametrize(("nodes", "tokens", "phase", "measured_us"), ACROSS_NODES)
def test_all_to_all_across_nodes(nodes, tokens, phase, measured_us):
    (fit,) = [f for f in calibration_files.load("h100-sxm") if f.kernel == f"deepep_ll {phase}"]
    message = tokens * 8 * 7168 * (1 + 4 / 128 if phase == "dispatch" else 2)
    op = ops.all_to_all("c", message_bytes=message, ranks=8 * nodes)
    predicted = float(collective(op, rates_of(device_files.find("h100-sxm"), "bf16"), fit.coefficients).time_s)
    print(f"{nodes} nodes, {tokens} tokens, {phase}: {predicted * 1e6:.0f} us, measured {measured_us:.0f}")
    assert predicted * 1e6 == pytest.approx(measured_us, rel=0.15)


# DeepEP's kernels for prompts on H200, 20 multiprocessors, the same model and package, wideep_deepep_normal: nodes, tokens a
# rank, microseconds with the notice of what comes.
OF_PROMPTS = [
    (1, 4096, "dispatch", 491.0),
    (2, 4096, "dispatch", 799.0),
    (4, 4096, "dispatch", 1850.0),
    (2, 4096, "combine", 1827.0),
    (4, 1024, "combine", 1031.0),
]


@pytest.mark.parametrize(("nodes", "tokens", "phase", "measured_us"), OF_PROMPTS)
def test_prompts_send_a_token_once_to_a_node(nodes, tokens, phase, measured_us):
    (fit,) = [f for f in calibration_files.load("h200-sxm") if f.kernel == f"deepep_normal {phase}"]
    message = tokens * 8 * 7168 * (1 + 4 / 128 if phase == "dispatch" else 2)
    op = ops.all_to_all("c", message_bytes=message, ranks=8 * nodes, wanted=8.0)
    predicted = float(collective(op, rates_of(device_files.find("h200-sxm"), "bf16"), fit.coefficients).time_s)
    print(f"{nodes} nodes, {tokens} tokens, {phase}: {predicted * 1e6:.0f} us, measured {measured_us:.0f}")
    assert abs(np.log(predicted * 1e6 / measured_us)) < 3 * fit.error_frac


def test_a_token_goes_once_to_a_rank_and_a_node():
    """Two nodes of two ranks, 4 tokens of 100 bytes with two copies each: by hand over the ways two copies can fall.

    Both copies on one rank with chance 1/4, so that 4 (1 - (3/4)^2) = 1.75 ranks get a copy, half of them over the link
    inside; the other node is wanted with chance 3/4.
    """
    op = ops.all_to_all("c", message_bytes=800.0, ranks=4, wanted=2.0)
    rates = RATES._replace(node_devices=2.0)
    once, every = traffic(op, rates, once=True), traffic(op, rates)
    assert float(once.wire) == pytest.approx(400 * 1.75 / 2)
    assert float(once.outside) == pytest.approx(400 * 0.75)
    assert (float(every.wire), float(every.outside)) == (800 / 4, 800 / 2)


def test_network_constants_are_what_the_multi_node_fits_say():
    from gemmstone.calibrate.comm_tables import NETWORK_EFFICIENCY, NETWORK_ROUND_S

    fits = [
        f for name in ("h100-sxm", "h200-sxm") for f in calibration_files.load(name) if f.kernel.startswith("deepep_ll")
    ]
    assert len(fits) == 4
    for fit in fits:
        assert fit.coefficients["tn"] == pytest.approx(NETWORK_ROUND_S, rel=0.15)
        assert fit.coefficients["en"] == pytest.approx(NETWORK_EFFICIENCY, rel=0.03)


# ------------------------------------------------------------------------------------------------------------ moving bytes


def test_elementwise_by_hand():
    """12 MB: 10 MB stay on the chip at twice 1 TB/s (6 us for all of it); 2 MB from memory at half of it would be 4."""
    c = {"t0": 2e-6, "el": 2.0, "eb": 0.5, "cache": 1e7}
    small = elementwise_ops.elementwise("e", read_elements=4e6, write_elements=2e6)
    large = elementwise_ops.elementwise("e", read_elements=4e9, write_elements=2e9)
    assert float(elementwise(small, RATES, c).time_s) == pytest.approx(8e-6)
    assert float(elementwise(large, RATES, c).time_s) == pytest.approx(2e-6 + (12e9 - 1e7) / 0.5e12)


def test_launch_of_a_kernel_in_a_graph_is_one_to_three_microseconds():
    """Fitted on every device: the quickest kernel that moves bytes takes this long however little it moves."""
    found = [
        f.coefficients["t0"]
        for d in calibration_files.published()
        for f in calibration_files.load(d)
        if f.family == "elementwise"
    ]
    assert len(found) >= 10
    assert all(1e-6 < t0 < 3e-6 for t0 in found), sorted(found)


# TensorRT-LLM's exchange in a rack of GB200, same model and package, trtllm_alltoall: ranks, tokens a rank, microseconds.
IN_A_RACK = [
    (8, 1024, "dispatch", 105.7 + 20.1),
    (64, 64, "dispatch", 20.6 + 15.2),
    (32, 4096, "combine", 925.1),
    (64, 64, "combine", 31.7),
]


@pytest.mark.parametrize(("ranks", "tokens", "phase", "measured_us"), IN_A_RACK)
def test_exchange_over_nvlink(ranks, tokens, phase, measured_us):
    (fit,) = [f for f in calibration_files.load("gb200") if f.kernel == f"NVLinkTwoSided {phase}"]
    message = tokens * 8 * 7168 * (1 + 4 / 128 if phase == "dispatch" else 2)
    op = ops.all_to_all("c", message_bytes=message, ranks=ranks, wanted=8.0)
    predicted = float(collective(op, rates_of(device_files.find("gb200"), "bf16"), fit.coefficients).time_s)
    print(f"{ranks} ranks, {tokens} tokens, {phase}: {predicted * 1e6:.0f} us, measured {measured_us:.0f}")
    assert abs(np.log(predicted * 1e6 / measured_us)) < 3 * fit.error_frac

"""Idealized runtimes of HELM (arXiv:2305.02440): seconds a token on A100 80 GB, github.com/stanford-crfm/helm@3b3dbae411
src/helm/benchmark/efficiency_data/inference_idealized_runtimes.json; layers, hidden size and tensor ranks as the scripts of
github.com/stanford-crfm/helm-efficiency profile them. TNLG-530B was profiled as a third of its layers."""

from __future__ import annotations

from gemmstone.calibrate.idealized import Decoding


def decoding(name: str, per_token_s: float, layers: int, hidden: int, ranks: int) -> Decoding:
    """A row with the weights of its layers, 12 h^2 of two bytes each, shared among the ranks."""
    return Decoding(name, per_token_s, layers, ranks, 2 * 12 * hidden**2 * layers / ranks)


DECODING = [
    decoding("ada", 0.019, 24, 1024, 1),
    decoding("curie 6.7B", 0.024, 32, 4096, 1),
    decoding("GPT-J 6B", 0.021, 28, 4096, 1),
    decoding("GPT-NeoX 20B", 0.033, 44, 6144, 1),
    decoding("J1-Grande 17B", 0.038, 50, 5120, 1),
    decoding("OPT 66B", 0.055, 64, 9216, 4),
    decoding("Anthropic, Cohere 52B", 0.054, 64, 8192, 4),
    decoding("YaLM 100B", 0.068, 80, 10240, 4),
    decoding("GPT-3, OPT 175B", 0.081, 96, 12288, 8),
    decoding("J1-Jumbo 178B", 0.064, 76, 13824, 8),
    decoding("BLOOM 176B", 0.061, 70, 14336, 8),
    decoding("TNLG 530B", 0.123, 105, 20480, 8),
]

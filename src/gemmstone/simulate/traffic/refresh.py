"""Makes the shipped distributions again from the traces they were fitted to:

    python -m gemmstone.simulate.traffic.refresh FOLDER [--into FOLDER]

FOLDER holds the traces below, as Parquet with arrival_s, input_tokens, output_tokens and, where there are any, hash_ids. The
same traces make the same files; each names its trace's SHA-256.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from gemmstone.core.errors import BadRequest, GemmstoneError
from gemmstone.simulate.traffic import session
from gemmstone.simulate.traffic.distribution import FOLDER, SCHEMA

AZURE = (
    "github.com/Azure/AzurePublicDataset, AzureLLMInferenceDataset2023; Patel et al., Splitwise: Efficient generative LLM "
    "inference using phase splitting, ISCA 2024"
)
AZURE_LICENSE = "CC-BY-4.0, Microsoft Azure; this file is a fitted distribution, none of its requests is in it"


class Shipped(NamedTuple):
    """A shipped distribution: its trace, what it is, where the trace comes from, and the trace's licence."""

    file: str
    about: str
    source: str
    license: str


SHIPPED = {
    "azure-code": Shipped(
        "azure2023_code.parquet", "code completion in Azure, an hour of November 2023", AZURE, AZURE_LICENSE
    ),
    "azure-conversation": Shipped(
        "azure2023_conv.parquet", "conversations in Azure, an hour of November 2023", AZURE, AZURE_LICENSE
    ),
    "mooncake-conversation": Shipped(
        "mooncake_conversation.parquet",
        "conversations with long prompts of a chat service, an hour, with the blocks of 512 tokens prompts share",
        "github.com/kvcache-ai/Mooncake, FAST25-release/traces/conversation_trace.jsonl; Qin et al., Mooncake, FAST 2025",
        "Apache-2.0",
    ),
    "sharegpt-replay": Shipped(
        "sharegpt-qwen3-32b-300-sps10.parquet",
        "300 requests made from ShareGPT for a replay, with answers of 512 tokens and more",
        "github.com/casys-kaist/LLMServingSim, workloads/sharegpt-qwen3-32b-300-sps10.jsonl",
        "MIT",
    ),
    "lmsys-chat": Shipped(
        "apexplus_llama_lmsys_05.parquet",
        "lengths of 1,024 chats of LMSYS in tokens of Llama; no times of arrival",
        "github.com/microsoft/apex_plus, traces/llama/lmsys_05.jsonl",
        "MIT",
    ),
    "arxiv-summarization": Shipped(
        "arxiv_summarization_lengths.parquet",
        "lengths of articles and their summaries in tokens of Llama 2; no times of arrival",
        "github.com/microsoft/vidur, data/processed_traces/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv",
        "MIT",
    ),
}
WEEK_PARTS = ("azure-conversation", "azure-code")
WEEK = {
    "about": "a week of conversations and code completion at the rates and lengths of Azure's hour of November 2023",
    "assumed": (
        "the day: a sinusoid with its peak at 14 h, three times its trough, equal on all days. The trace it is made from lasts "
        "an hour and says nothing of it; peak_to_trough=, peak_hour= or hours= (24 factors) put another in its place"
    ),
    "source": AZURE,
    "license": AZURE_LICENSE,
    "peak_to_trough": 3.0,
    "peak_hour": 14.0,
    "days": 7.0,
}


def refresh(traces: Path, into: Path) -> list[str]:
    """Fits and writes all shipped distributions; returns one line for each."""
    done, rates = [], {}
    for name, shipped in SHIPPED.items():
        document = session.fitted(
            str(traces / shipped.file),
            name=name,
            out=str(into / f"{name}.json"),
            about=shipped.about,
            source=shipped.source,
            license_=shipped.license,
            say=lambda line: print(line, file=sys.stderr),
        )
        fit: dict[str, Any] = document["fit"]
        rates[name] = document["arrivals"]["rate_per_s"] if document["arrivals"] else 0.0
        distances = ", ".join(f"{key} {value}" for key, value in fit.items() if key.startswith("ks_"))
        done.append(f"{name}: {distances}, prefix hits {fit.get('prefix_hit_frac', 'none')}")
    parts = [{"traffic": name, "rate_per_s": rates[name]} for name in WEEK_PARTS]
    session.write({"schema": SCHEMA, "name": "azure-week", **WEEK, "parts": parts}, into / "azure-week.json")
    return done


def main() -> int:
    """Runs the command line; 0 written, 2 bad request."""
    parser = argparse.ArgumentParser(description="Makes the shipped traffic distributions from their traces.")
    parser.add_argument("traces", type=Path)
    parser.add_argument("--into", type=Path, default=FOLDER)
    given = parser.parse_args()
    try:
        if not given.into.is_dir():
            raise BadRequest(f"{given.into}: no such folder")
        print(*refresh(given.traces, given.into), sep="\n")
    except GemmstoneError as error:
        print(f"gemmstone: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

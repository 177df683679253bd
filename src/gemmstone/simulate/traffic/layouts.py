"""The columns of trace files, by the layouts they are published in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gemmstone.core.errors import BadRequest


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names of the columns of a layout; times are multiplied by scale_s. coarse: its times are so rough that equal rows are
    nothing unusual."""

    name: str
    arrival: tuple[str, ...]
    input_tokens: tuple[str, ...]
    output_tokens: tuple[str, ...]
    scale_s: float = 1.0
    coarse: bool = False


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of one file, by what they hold; None: it has no such column."""

    layout: Layout
    arrival: str | None
    input_tokens: str
    output_tokens: str
    hash_ids: str | None
    session: str | None
    priority: str | None
    request: str | None

    def used(self) -> list[str]:
        """Names of the columns that are read."""
        named = (self.arrival, self.input_tokens, self.output_tokens, self.hash_ids, self.session)
        return [name for name in (*named, self.priority, self.request) if name is not None]


# In the order tried. Azure: AzurePublicDataset, AzureLLMInferenceDataset2023.md. BurstGPT: github.com/HPMLL/BurstGPT, seconds.
# Mooncake: FAST25-release/traces of github.com/kvcache-ai/Mooncake, milliseconds and blocks of 512 tokens.
LAYOUTS = (
    Layout(
        name="gemmstone",
        arrival=("arrival_s",),
        input_tokens=("input_tokens", "prompt_len"),
        output_tokens=("output_tokens", "output_len"),
    ),
    Layout(
        name="Azure",
        arrival=("TIMESTAMP",),
        input_tokens=("ContextTokens",),
        output_tokens=("GeneratedTokens",),
    ),
    Layout(
        name="BurstGPT",
        arrival=("Timestamp",),
        input_tokens=("Request tokens",),
        output_tokens=("Response tokens",),
        coarse=True,
    ),
    Layout(
        name="Mooncake",
        arrival=("timestamp",),
        input_tokens=("input_length",),
        output_tokens=("output_length",),
        scale_s=1e-3,
        coarse=True,
    ),
)
HASH_IDS = ("prefix_hash_ids", "hash_ids")
SESSIONS = ("session_id", "Session ID")
PRIORITIES = ("priority",)
REQUEST_IDS = ("request_id", "RequestID", "Request ID")
SHOWN = 12  # columns named in a message
WANTED = (
    "arrival_s, input_tokens, output_tokens; or Azure's TIMESTAMP, ContextTokens, GeneratedTokens; BurstGPT's Timestamp, "
    "Request tokens, Response tokens; Mooncake's timestamp, input_length, output_length"
)


def columns(names: Sequence[str], file: str) -> Columns:
    """Which column holds what; BadRequest names the columns found where lengths are missing or a column is there twice."""
    plain = [name.strip() for name in names]
    by_name = dict(zip(plain, names, strict=True))

    def first(wanted: Sequence[str]) -> str | None:
        for name in wanted:
            if name in by_name:
                if plain.count(name) > 1:
                    raise BadRequest(f"{file}: the column {name} is there twice")
                return by_name[name]
        return None

    for layout in LAYOUTS:
        prompt, answer = first(layout.input_tokens), first(layout.output_tokens)
        if prompt is not None and answer is not None:
            return Columns(
                layout=layout,
                arrival=first(layout.arrival),
                input_tokens=prompt,
                output_tokens=answer,
                hash_ids=first(HASH_IDS),
                session=first(SESSIONS),
                priority=first(PRIORITIES),
                request=first(REQUEST_IDS),
            )
    shown = ", ".join(repr(name[:40]) for name in list(names)[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    raise BadRequest(f"{file}: found the columns {shown or 'none'}; needed are {WANTED}")

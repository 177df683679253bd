"""What every document begins with."""

from __future__ import annotations

from typing import Any

from gemmstone import __version__


def head(verb: str, warnings: list[str]) -> dict[str, Any]:
    """Schema, version and warnings of the document of a verb."""
    return {"schema": f"gemmstone/{verb}/1", "gemmstone_version": __version__, "warnings": warnings}

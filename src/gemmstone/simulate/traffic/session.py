"""The two questions of the traffic verb: what a traffic is like, and which distribution a trace has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.traffic import distribution, fit
from gemmstone.simulate.traffic.named import named, split
from gemmstone.simulate.traffic.read import HASH_TOKENS, read, sniff
from gemmstone.simulate.traffic.show import summary
from gemmstone.store.aside import written_aside

UNKNOWN = "not said"


def shown(name: str, say: Callable[[str], None], **asked: Any) -> dict[str, Any]:
    """What a traffic is like; for a distribution also what it was fitted to and how well."""
    traffic = named(name, say=say, **asked)
    head, _ = split(name)
    found: dict[str, Any] = {"traffic": summary(traffic), "distribution": None}
    if head in distribution.published() or (Path(head).is_file() and distribution.is_one(sniff(Path(head)))):
        document = distribution.find(head).document
        keys = ("about", "source", "license", "fitted_to", "fit", "parts", "assumed")
        found["distribution"] = {key: document[key] for key in keys if key in document}
    return found


def fitted(
    file: str,
    *,
    name: str = "",
    out: str = "",
    about: str = "",
    source: str = "",
    license_: str = "",
    repair: bool = False,
    requests: int | None = None,
    hash_tokens: int = HASH_TOKENS,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The distribution of a trace file; written into `out` where that is named."""
    path = Path(file)
    if distribution.is_one(sniff(path)):
        raise BadRequest(f"{path.name} is a distribution already: gemmstone traffic show {path} says what it is like")
    rows = read(path, limit=requests, repair=repair, hash_tokens=hash_tokens, say=say)
    found = fit.fit(
        rows,
        path,
        name=name or path.stem,
        about=about or f"fitted to {path.name}",
        source=source or UNKNOWN,
        license_=license_ or UNKNOWN,
    )
    if out:
        write(found.document, Path(out))
    return dict(found.document)


def write(document: Mapping[str, Any], target: Path) -> None:
    """Writes a distribution; a file that is there is replaced whole or not at all."""
    with written_aside(str(target), "replace") as file:
        file.write(distribution.text(document))

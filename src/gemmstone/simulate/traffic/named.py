"""Traffic by name: a kind that is drawn, a shipped or own distribution, or a file of requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Traffic
from gemmstone.simulate.traffic import distribution, files, mixed
from gemmstone.simulate.traffic.asked import Asked, Setting, check, settings, silent
from gemmstone.simulate.traffic.draws import CHUNK, Sampler
from gemmstone.simulate.traffic.kinds import COMMON, KINDS
from gemmstone.simulate.traffic.read import sniff
from gemmstone.simulate.traffic.synthetic import sampler_of

MAX_NAME = 4_096


def named(
    name: str,
    *,
    requests: int | None = None,
    rate_per_s: float | None = None,
    in_flight: int = 0,
    seed: int = 0,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    length_spread: float = 0.0,
    repair: bool = False,
    chunk: int = CHUNK,
    say: Callable[[str], None] = silent,
    **given: Setting,
) -> Traffic:
    """Traffic of a kind (KINDS), of a distribution (DISTRIBUTIONS or a .json of `traffic fit`), or of a file of requests.

    Settings of the kind are further keywords, or stand behind the name: "gamma:cv=4". `rate_per_s` scales what has times of its
    own. With `in_flight` times do not matter: so many requests are kept in flight. The same arguments give the same bytes.
    """
    head, written = split(name)
    asked = Asked(
        requests=requests,
        rate_per_s=rate_per_s,
        in_flight=in_flight,
        seed=seed,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        length_spread=length_spread,
        repair=repair,
        chunk=chunk,
        settings={**written, **given},
        say=say,
    )
    check(asked)
    return made(head, asked)


def split(name: str) -> tuple[str, dict[str, Setting]]:
    """A name and the settings behind it: "gamma:cv=4,days=2"; the path of a file may hold colons."""
    if not name or len(name) > MAX_NAME or "\0" in name:
        raise BadRequest("traffic needs a name or a file")
    head, colon, rest = name.rpartition(":")
    if not colon or "=" not in rest or Path(name).exists():
        return name, {}
    pairs = [part.partition("=") for part in rest.split(",")]
    if not all(key.strip() and value.strip() for key, _, value in pairs):
        raise BadRequest(f"traffic settings are written NAME:KEY=VALUE,KEY=VALUE, not {name[:80]!r}")
    return head, {key.strip(): value.strip() for key, _, value in pairs}


def made(name: str, asked: Asked) -> Traffic:
    """The traffic of that name."""
    if name in KINDS:
        kind = KINDS[name]
        asked = replace(asked, settings=settings(name, {**COMMON, **kind.settings}, asked.settings))
        return kind.make(name, asked, _sampler(asked))
    if name in distribution.published() or distribution.is_one(_start(name)):
        return mixed.traffic(distribution.find(name), asked)
    return files.traffic(Path(name), asked)


def _start(name: str) -> bytes:
    """What the file of that name begins with; BadRequest names what there is where it is none."""
    if not Path(name).exists():
        known = ", ".join([*KINDS, *distribution.published()])
        raise BadRequest(f"{name[:80]!r} is no file and no traffic known here: {known}")
    return sniff(Path(name))


def _sampler(asked: Asked) -> Sampler:
    """Lengths as asked for, or of a distribution by name."""
    name = str(asked.settings["lengths"])
    if not name:
        return sampler_of(asked)
    numbers = [asked.settings[key] for key in ("input_cv", "output_cv", "correlation")]
    if asked.input_tokens or asked.output_tokens or asked.length_spread or any(map(float, numbers)):
        raise BadRequest(
            f"lengths={name[:80]} says how long requests are: leave out --input, --output and their spread"
        )
    return mixed.sampler(distribution.find(name))

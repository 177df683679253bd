"""Writing a file so that it appears whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gemmstone.core.errors import BadRequest


@contextmanager
def written_aside(name: str, errors: str = "strict") -> Iterator[IO[str]]:
    """A text file (UTF-8) to write to, which takes the name `name` when the block ends well and vanishes otherwise.

    A link stays a link and what it stands for is replaced; a device or a pipe is written to. Raises BadRequest when it
    cannot be written.
    """
    with bytes_aside(name) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors=errors, newline="")
        try:
            yield text
            text.flush()
        finally:
            with contextlib.suppress(OSError):  # a full disk was reported by the flush
                text.detach()


@contextmanager
def bytes_aside(name: str) -> Iterator[IO[bytes]]:
    """The same for a file of bytes."""
    try:
        final = Path(name).resolve()
        plain = final.is_file() or not final.exists()
        aside = final.with_name(f".gemmstone-{os.urandom(6).hex()}") if plain else final
        file = aside.open("xb" if plain else "wb")
    except (OSError, ValueError) as error:
        raise cannot_write(name, error) from None
    try:
        with file:
            yield file
        if plain:
            aside.replace(final)
    except BaseException as error:
        if plain:
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(name, error) from None
        raise


def cannot_write(name: str, error: OSError | ValueError) -> BadRequest:
    """The error for a file that cannot be written, with the system's reason."""
    return BadRequest(f"cannot write {name}: {getattr(error, 'strerror', None) or error}")

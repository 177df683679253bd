"""A worker process of the local executor: reads points from standard input, writes their answers to standard output."""

from __future__ import annotations

import os
import pickle
import struct
import sys
from typing import IO, Any

from gemmstone.simulate.sweeps.points import answered

LENGTH = struct.Struct("<Q")


def send(file: IO[bytes], message: Any) -> None:
    """Writes one message."""
    data = pickle.dumps(message)
    file.write(LENGTH.pack(len(data)) + data)
    file.flush()


def receive(file: IO[bytes]) -> Any:
    """Reads one message; raises EOFError where there is none any more."""
    head = file.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def main() -> None:
    """Answers until nobody asks any more. What points print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            point = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(answers, answered(point))


if __name__ == "__main__":
    main()

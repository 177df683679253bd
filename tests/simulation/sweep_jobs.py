"""What sweeps of the tests compute: functions that other processes can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from gemmstone.core.errors import NoAnswer


def twice(asked: dict[str, Any]) -> dict[str, Any]:
    """Twice a number; leaves a line where it is asked to."""
    if "log" in asked:
        with open(asked["log"], "a") as file:
            file.write(f"{asked['number']}\n")
    return {"twice": 2 * asked["number"], "third": asked["number"] / 3.0}


def dies_once(asked: dict[str, Any]) -> dict[str, Any]:
    """Ends its process the first time that it is asked, without a word."""
    mark = Path(asked["mark"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"survived": asked["number"]}


def dies(asked: dict[str, Any]) -> dict[str, Any]:
    """Ends its process every time."""
    Path(asked["mark"]).write_text(Path(asked["mark"]).read_text() + "x" if Path(asked["mark"]).exists() else "x")
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def refuses(asked: dict[str, Any]) -> dict[str, Any]:
    """Has no answer."""
    raise NoAnswer("nothing\nfits")


def breaks(asked: dict[str, Any]) -> dict[str, Any]:
    """Has a bug."""
    return {"sum": asked["number"] + "text"}


def prints(asked: dict[str, Any]) -> dict[str, Any]:
    """Writes to standard output, where answers go."""
    print("noise" * 1000, flush=True)
    return {"fine": True}


def sleeps(asked: dict[str, Any]) -> dict[str, Any]:
    """Says which process it is and takes its time."""
    Path(asked["pids"], str(os.getpid())).touch()
    time.sleep(60.0)
    return {}

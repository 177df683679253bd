"""Whole servers by their management controller: `ipmitool dcmi power reading` (IPMI, DCMI 1.5, "Get Power Reading").

Asked once a second, in whole watts; how often the controller looks is its own affair and not told.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence

from gemmstone.core.errors import MissingBackend
from gemmstone.measure import gpu
from gemmstone.measure.meters.window import Meter, Sensor, Unreadable

COMMAND = ("ipmitool", "dcmi", "power", "reading")
UPDATE_S = 1.0
LIMIT_S = 5.0
MOST_W = 50_000.0
READING = re.compile(r"Instantaneous power reading:\s*(\d{1,6})\s*Watts")
Ask = Callable[[], str]


def find(device: str, *, command: Sequence[str] = COMMAND) -> Meter:
    """The meter of the server around a cpu. Raises MissingBackend with the reason where there is none."""
    if device != "cpu":
        raise MissingBackend(f"IPMI sees the whole server, not {device[:40]!r}")
    if shutil.which(command[0]) is None:
        raise MissingBackend(f"IPMI needs {command[0]}, and a server with a management controller")

    def watts() -> float:
        return _watts(_asked(command))

    try:
        watts()
    except Unreadable as error:
        raise MissingBackend(f"{error} (root may read it, where there is a controller)") from error
    return Meter(
        name="ipmi",
        device=device,
        scope="node",
        sensors=(Sensor("the server's input", watts, counts=False),),
        update_s=UPDATE_S,
        most_w=MOST_W,
        note="asked once a second, in whole watts",
    )


def _asked(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreadable(f"{command[0]} does not answer: {gpu.one_line(error)}") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it does not say why"])[0]
        raise Unreadable(f"{command[0]} failed: {' '.join(said.split())[:150]}")
    return done.stdout[:10_000]


def _watts(said: str) -> float:
    found = READING.search(said)
    if found is None:
        raise Unreadable("the management controller tells no power")
    if re.search(r"reading state is:\s*deactivated", said):
        raise Unreadable("the management controller's power reading is switched off")
    watts = float(found.group(1))
    if watts == 0:
        raise Unreadable("the management controller tells 0 W of a server that runs")
    return watts

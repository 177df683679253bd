"""NVIDIA devices through NVML, which knows their power, clocks, temperature and what slows them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from gemmstone.core.errors import MissingBackend

T = TypeVar("T")
# Bits of the clocks' event reasons (NVML API reference, nvmlClocksEventReasons) that mean that the device was slowed; idle, clocks
# that the user set and the display's are no surprise.
SLOWED = {
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "power brake",
    0x200: "board limit",
    0x400: "reliability",
}


def library() -> Any:
    """NVML, ready to be asked. Raises MissingBackend with the reason where it is not there."""
    try:
        nvml = import_module("pynvml")
    except ImportError as error:
        raise MissingBackend("NVML needs nvidia-ml-py: pip install 'gemmstone[nvidia]'") from error
    try:
        nvml.nvmlInit()
    except Exception as error:
        raise MissingBackend(f"no NVIDIA driver answers here: {one_line(error)}") from error
    return nvml


def handle(nvml: Any, device: str) -> Any:
    """NVML's handle of a device called cuda:N. Raises MissingBackend where there is no such device.

    CUDA counts the devices that it may see, fastest first; NVML counts all, by bus. The unique name that PyTorch knows tells
    which one is meant, else CUDA_VISIBLE_DEVICES does.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdigit():
        raise MissingBackend(f"NVML knows devices called cuda:N, not {device[:40]!r}")
    number = int(index or 0)
    name = unique_name(number)
    try:
        if name:
            found = nvml.nvmlDeviceGetHandleByUUID(name)
            # power, clocks and limits are the board's, not those of an instance on it
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(found) if name.startswith("MIG-") else found
        count = nvml.nvmlDeviceGetCount()
        if number >= count:
            raise MissingBackend(f"{device}: NVML sees {count} devices")
        return nvml.nvmlDeviceGetHandleByIndex(number)
    except MissingBackend:
        raise
    except Exception as error:
        raise MissingBackend(f"{device}: {one_line(error)}") from error


def unique_name(number: int) -> str:
    """NVML's unique name of CUDA's device `number`; empty where nothing tells."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and number < torch.cuda.device_count():
        uuid = str(getattr(torch.cuda.get_device_properties(number), "uuid", ""))
        if uuid:
            return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    seen = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    part = seen[number] if number < len(seen) else ""
    return part if part.startswith(("GPU-", "MIG-")) else ""


def ask(question: Callable[..., T], *arguments: Any) -> T | None:
    """What NVML answers; None where it does not know."""
    try:
        return question(*arguments)
    except Exception:
        return None


def slowed(nvml: Any, device: Any) -> str:
    """Why a device's clocks are below what they could be, in words; empty where they are not, or it does not tell."""
    question = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    bits = ask(question or nvml.nvmlDeviceGetCurrentClocksThrottleReasons, device) or 0
    return ", ".join(words for bit, words in SLOWED.items() if bits & bit)


def one_line(error: BaseException) -> str:
    """What an error says, in one bounded line."""
    return " ".join(str(error).split())[:200] or type(error).__name__

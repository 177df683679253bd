"""Numbers that papers print beside what comes out here: one table for the golden tests and for docs/papers.md."""

from __future__ import annotations

from papers import (
    apex,
    caches,
    hardware,
    judged,
    learned,
    measured,
    memory,
    models,
    offload,
    on_device,
    predictors,
    stability,
    switching,
    techniques,
)
from papers.row import Paper

PAPERS: dict[str, tuple[Paper, ...]] = {
    "Predictors and serving": predictors.PAPERS + apex.PAPERS,
    "Techniques": caches.PAPERS + techniques.PAPERS + offload.PAPERS + switching.PAPERS,
    "Hardware": hardware.PAPERS,
    "Measurements": measured.PAPERS + judged.PAPERS + learned.PAPERS + stability.PAPERS + memory.PAPERS,
    "Models and where they run": models.PAPERS + on_device.PAPERS,
}

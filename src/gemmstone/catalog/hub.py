"""One config.json from the Hugging Face Hub, with huggingface_hub's own cache, mirror (HF_ENDPOINT) and offline mode."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gemmstone.core.errors import BadRequest, MissingBackend

TIMEOUT_S = 5.0
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
WAY_OUT = "pass the path of its config.json instead"


def config_path(repo_id: str, max_bytes: int) -> Path:
    """Path in the local cache of the config.json of a Hub repository, downloaded when it is not there yet.

    A cached copy is taken without asking the network: architectures do not change under a name. Raises BadRequest, with
    the way out, for everything that can go wrong, a file larger than `max_bytes` included.
    """
    if not _ID.fullmatch(repo_id) or ".." in repo_id:
        raise BadRequest(f"{repo_id[:120]!r} is neither a file nor a Hugging Face id of the form organisation/name")
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    except ImportError:
        raise MissingBackend("pip install huggingface_hub to read models from the Hub, or " + WAY_OUT) from None
    cached = try_to_load_from_cache(repo_id, "config.json")
    if isinstance(cached, str):
        return Path(cached)
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        url = hf_hub_url(repo_id, "config.json", endpoint=endpoint)
        size = get_hf_file_metadata(url, timeout=TIMEOUT_S, endpoint=endpoint).size
        if size is not None and size <= max_bytes:
            return Path(hf_hub_download(repo_id, "config.json", etag_timeout=TIMEOUT_S, endpoint=endpoint))
    except Exception as error:  # huggingface_hub raises its own, the HTTP client's, and OSError, by version
        raise BadRequest(_reason(repo_id, error)) from None
    raise BadRequest(
        f"the config.json of {repo_id!r} on the Hub is larger than {max_bytes:,} bytes or of unknown size; {WAY_OUT}"
    )


def _reason(repo_id: str, error: Exception) -> str:
    """One line that says why the Hub did not give a file. Class names are stable across versions, messages are not."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return f"the model {repo_id!r} is gated: log in with `hf auth login` and accept its licence, or {WAY_OUT}"
    if "RepositoryNotFoundError" in kinds:
        return f"unknown model {repo_id!r}: not shipped, and not on the Hub (or private); check the name or {WAY_OUT}"
    if "EntryNotFoundError" in kinds and "LocalEntryNotFoundError" not in kinds:
        return f"the Hub repository {repo_id!r} has no config.json; {WAY_OUT}"
    if kinds & {"OfflineModeIsEnabled", "LocalEntryNotFoundError"}:
        return f"the model {repo_id!r} is not shipped, not in the local cache, and the Hub is out of reach or offline mode is on; {WAY_OUT}"
    return f"the model {repo_id!r} is not shipped and the Hub gave no answer ({type(error).__name__}); {WAY_OUT}"

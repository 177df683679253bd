"""Models from a Hub, here a local server: huggingface_hub reads its settings at import, so each case is a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gemmstone.catalog.model_files import MAX_BYTES, find

CONFIG = json.dumps(dict(find("qwen3-8b").config, num_hidden_layers=3)).encode()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ASK = """
import sys, warnings
warnings.simplefilter("ignore")
from gemmstone.catalog.model_files import find
from gemmstone.core.errors import GemmstoneError
from gemmstone.graph.families import build_model
try:
    file = find(sys.argv[1])
    model = build_model(file)
    print(model.name, model.num_layers, file.weights or "-", model.quantization.weights if model.quantization else "-")
except GemmstoneError as error:
    print(type(error).__name__, error)
"""


class Hub(BaseHTTPRequestHandler):
    """What the Hub answers for /ORG/NAME/resolve/main/config.json, by name."""

    requests: list[str] = []  # noqa: RUF012  (shared by the handler objects on purpose; the fixture empties it)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        Hub.requests.append(f"{self.command} {self.path}")
        name = self.path.strip("/").split("/")[1] if self.path.count("/") > 1 else ""
        error = {"gated": (403, "GatedRepo"), "absent": (404, "RepoNotFound"), "bare": (404, "EntryNotFound")}.get(name)
        if error:
            self.send_response(error[0])
            self.send_header("X-Error-Code", error[1])
            self.send_header("X-Error-Message", "refused")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = {"huge": b"{" + b" " * MAX_BYTES + b"}", "html": b"<html>"}.get(name, CONFIG)
        self.send_response(200)
        self.send_header("ETag", f'"{name}-etag"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    Hub.requests.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ask(name: str, home: Path, endpoint: str, **settings: str) -> str:
    """What a fresh process answers for a model name."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGING")) and "proxy" not in key.lower()
    }
    environment = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", **settings}
    done = subprocess.run(
        [sys.executable, "-c", ASK, name], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip()


def test_download_then_cache_then_offline(tmp_path: Path, endpoint: str) -> None:
    assert ask("someone/new-model", tmp_path, endpoint) == "new-model 3 - -"
    assert any(line.startswith("GET /someone/new-model/resolve/") for line in Hub.requests)
    Hub.requests.clear()
    assert ask("someone/new-model", tmp_path, endpoint, HF_HUB_OFFLINE="1") == "new-model 3 - -"
    assert ask("someone/new-model", tmp_path, "http://127.0.0.1:9") == "new-model 3 - -"
    assert Hub.requests == []


def test_the_name_says_what_the_config_leaves_out(tmp_path: Path, endpoint: str) -> None:
    assert ask("someone/new-model-NVFP4", tmp_path, endpoint) == "new-model-NVFP4 3 nvfp4 nvfp4"


def test_a_shipped_model_asks_nobody(tmp_path: Path, endpoint: str) -> None:
    assert ask("Qwen/Qwen3-8B", tmp_path, endpoint) == "qwen3-8b 36 - -"
    assert Hub.requests == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("someone/gated", "is gated"),
        ("someone/absent", "unknown model"),
        ("someone/bare", "has no config.json"),
        ("someone/huge", "larger than"),
        ("someone/html", "not JSON"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_a_way_out(tmp_path: Path, endpoint: str, name: str, reason: str) -> None:
    answer = ask(name, tmp_path, endpoint)
    assert answer.startswith("BadRequest")
    assert reason in answer
    assert "config.json" in answer
    assert "\n" not in answer


def test_a_huge_file_is_not_downloaded(tmp_path: Path, endpoint: str) -> None:
    ask("someone/huge", tmp_path, endpoint)
    assert Hub.requests
    assert not any(line.startswith("GET") for line in Hub.requests)


def test_without_network_the_way_out_is_a_path(tmp_path: Path) -> None:
    answer = ask("someone/new-model", tmp_path, "http://127.0.0.1:9")
    assert answer.startswith("BadRequest")
    assert "pass the path of its config.json" in answer


def test_offline_mode_asks_nobody(tmp_path: Path, endpoint: str) -> None:
    answer = ask("someone/new-model", tmp_path, endpoint, HF_HUB_OFFLINE="1")
    assert "offline mode" in answer
    assert "pass the path of its config.json" in answer
    assert Hub.requests == []


@pytest.mark.parametrize(
    "name", ["a/b/c", "../../etc/passwd/x", "org/na me", "org/", "org/name?x=1", "https://example.org/x"]
)
def test_what_is_no_hub_id_is_refused_without_asking(tmp_path: Path, endpoint: str, name: str) -> None:
    answer = ask(name, tmp_path, endpoint)
    assert answer.startswith("BadRequest")
    assert Hub.requests == []

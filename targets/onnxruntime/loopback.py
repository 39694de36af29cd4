"""A server on the loopback that serves one folder to one program, isolated across origins, and
hands it jobs: each answer comes with the request for the next job (page/verify.mjs)."""

from __future__ import annotations

import json
import queue
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlunsplit

import numpy as np

_ANSWERS = "answers"
_MOST = 1 << 30
"""The most bytes of an answer: a batch of vectors has a few megabytes."""
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-store",
}


class Loopback:
    """The server. Everything lies below a path of random letters, which other programs on this
    machine do not know."""

    def __init__(self, folder: Path, headers: Mapping[str, str] | None = None) -> None:
        """Serves `folder` with `headers`: those of an isolated page if None."""
        self._jobs: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        self._token = secrets.token_urlsafe(16)
        handler = partial(_Handler, self, dict(_HEADERS if headers is None else headers), folder)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """The address of the folder, which ends in a slash."""
        host = f"127.0.0.1:{self._server.server_address[1]}"
        return urlunsplit(("http", host, f"/{self._token}/", "", ""))

    def ask(self, job: dict[str, Any]) -> None:
        """Hand out a job; its answer is the next one of `answer`."""
        self._jobs.put(job)

    def answer(self, seconds: float) -> Any:
        """Returns the next answer, parsed JSON or an array; None if there is none within
        `seconds`."""
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the server, and whoever waits for a job."""
        self._jobs.put({"end": True})
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def exchange(self, body: bytes, shape: str | None) -> dict[str, Any]:
        """Take an answer; returns the next job, once there is one."""
        self._answers.put(_read(body, shape))
        return self._jobs.get()


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def __init__(self, owner: Loopback, headers: Mapping[str, str], folder: Path, *rest: Any):
        self._owner, self._extra = owner, headers
        super().__init__(*rest, directory=str(folder))

    def do_GET(self) -> None:
        if self._is_ours():
            super().do_GET()

    def do_HEAD(self) -> None:
        if self._is_ours():
            super().do_HEAD()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        known = self._is_ours() and self.path.partition("?")[0] == f"/{_ANSWERS}"
        if not known or not length.isdecimal() or int(length) > _MOST:
            self.close_connection = True
            if known:
                self.send_error(400)
            return
        job = self._owner.exchange(self.rfile.read(int(length)), self.headers.get("X-Shape"))
        text = json.dumps(job).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        with suppress(OSError):  # the program has ended meanwhile
            self.wfile.write(text)

    def _is_ours(self) -> bool:
        token, _, rest = self.path.removeprefix("/").partition("/")
        if not secrets.compare_digest(token.encode(), self._owner._token.encode()):
            self.send_error(404)
            return False
        self.path = f"/{rest}"
        return True

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def end_headers(self) -> None:
        for name, value in self._extra.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _read(body: bytes, shape: str | None) -> Any:
    """Returns an answer; where it is neither JSON nor an array of its shape, an error of that."""
    try:
        if shape is None:
            found = json.loads(body)
            return found if isinstance(found, dict) else {"error": "an answer is no object"}
        sizes = tuple(int(size) for size in shape.split(","))
        return np.frombuffer(body, dtype="<f4").reshape(sizes)
    except (ValueError, RecursionError) as error:
        return {"error": f"an answer cannot be read: {error}"}

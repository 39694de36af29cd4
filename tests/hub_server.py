"""A server on the loopback address that speaks as much of the hub's API as its client asks: real
HTTP, and faults on request. It is no hub: it keeps one repository, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LARGE = 2000
"""From this size on, a file is a large one (LFS)."""


@dataclass
class Hub:
    """The repository, what was asked, and the faults."""

    name: str = "org/tiny"
    commit: str = "c" * 40
    files: dict[str, bytes] = field(default_factory=dict)
    branches: set[str] = field(default_factory=lambda: {"main", "v1"})
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and Range of every request."""
    created: list[dict[str, Any]] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)
    """The cards that the client had checked."""
    uploaded: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None
    """The token that is asked for, if one is."""
    gated: bool = False
    cut: int | None = None
    """Number of bytes after which the next large download breaks off, once."""
    stall: float = 0.0
    """Seconds of silence before it breaks off."""
    wrong: str = ""
    """The path of a file of which another content of the same size is sent."""
    longer: str = ""
    """The path of a file of which the announced size is wrong."""
    busy: int = 0
    """Number of requests that are answered with 503."""
    nonsense: bytes | None = None
    """What the API answers, whatever is asked."""
    url: str = ""

    def oid(self, raw: bytes) -> str:
        if len(raw) >= LARGE:
            return hashlib.sha256(raw).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, code: int, body: bytes | Any, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        for name, text in {"Content-Length": str(len(raw)), **named}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def refused(self) -> bool:
        """Whether the request was answered with a refusal."""
        hub = self.hub
        path = self.path.partition("?")[0]
        hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if hub.busy:
            hub.busy -= 1
            self.answer(503, b"busy")
            return True
        known = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if hub.gated:
            code = 403 if known and hub.token else 401
            self.answer(code, {"error": "gated"}, X_Error_Code="GatedRepo")
            return True
        if hub.token is not None and not known:
            self.answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return True
        if hub.nonsense is not None and path.startswith("/api/"):
            self.answer(200, hub.nonsense, Content_Type="text/html")
            return True
        return False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.refused():
            return
        hub, path = self.hub, self.path.partition("?")[0]
        info = re.fullmatch(rf"/api/models/{hub.name}(?:/(revision|tree)/([^/]+))?", path)
        found = re.fullmatch(rf"/{hub.name}/resolve/([^/]+)/(.+)", path)
        if info is None and found is None:
            self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
            return
        revision = (info[2] if info else found[1] if found else None) or "main"
        if revision not in (*hub.branches, hub.commit):
            self.answer(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
        elif info is not None and info[1] == "tree":
            self.answer(200, [self.entry(key, raw) for key, raw in hub.files.items()])
        elif info is not None:
            siblings = [{"rfilename": key} for key in hub.files]
            self.answer(200, {"id": hub.name, "sha": hub.commit, "siblings": siblings})
        elif found is not None and found[2] in hub.files:
            self.download(found[2], hub.files[found[2]])
        else:
            self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound")

    def entry(self, key: str, raw: bytes) -> dict[str, Any]:
        oid = self.hub.oid(raw)
        size = len(raw) + 7 * (key == self.hub.longer)
        found = {"type": "file", "path": key, "size": size, "oid": oid}
        if len(raw) >= LARGE:
            found |= {"oid": "0" * 40, "lfs": {"oid": oid, "size": size, "pointerSize": 130}}
        return found

    def download(self, key: str, raw: bytes) -> None:
        hub, size = self.hub, len(raw)
        headers = {"X-Repo-Commit": hub.commit, "ETag": f'"{hub.oid(raw)}"'}
        if size >= LARGE:
            shown = size + 7 * (key == hub.longer)
            headers |= {"X-Linked-Etag": f'"{hub.oid(raw)}"', "X-Linked-Size": str(shown)}
        if key == hub.wrong:
            raw = bytes(byte ^ 1 for byte in raw)
        begin = 0
        if (asked := self.headers.get("Range")) and self.command == "GET":
            begin = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {begin}-{size - 1}/{size}"
        self.send_response(206 if begin else 200)
        for name, text in {**headers, "Content-Length": str(size - begin)}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        if hub.cut is not None and size >= LARGE:
            end, hub.cut = hub.cut, None
            self.wfile.write(raw[begin:end])
            self.wfile.flush()
            time.sleep(hub.stall)
            self.close_connection = True
            self.connection.shutdown(1)
            return
        self.wfile.write(raw[begin:])

    def do_PUT(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.uploaded[self.path.rpartition("/")[2]] = raw
        self.answer(200, b"")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.refused():
            return
        hub, path = self.hub, self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(raw)
            hub.created.append(asked)
            hub.name = f"{asked['organization']}/{asked['name']}"
            self.answer(200, {"url": f"{hub.url}/{hub.name}", "name": hub.name, "id": hub.name})
        elif path == "/api/validate-yaml":
            hub.cards.append(json.loads(raw)["content"])
            self.answer(200, {"warnings": [], "errors": []})
        elif branch := re.fullmatch(rf"/api/models/{hub.name}/branch/(.+)", path):
            hub.branches.add(branch[1])
            self.answer(200, {})
        elif re.fullmatch(rf"/api/models/{hub.name}/preupload/.+", path):
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(raw)["files"]
            ]
            self.answer(200, {"files": modes})
        elif path == f"/{hub.name}.git/info/lfs/objects/batch":
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}}
                for one in json.loads(raw)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif commit := re.fullmatch(rf"/api/models/{hub.name}/commit/(.+)", path):
            self.commit(commit[1], raw)
        else:
            self.answer(404, {"error": "no"})

    def commit(self, branch: str, raw: bytes) -> None:
        hub, lines = self.hub, [json.loads(line) for line in raw.splitlines()]
        head = next(one["value"] for one in lines if one["key"] == "header")
        files = {}
        for one in lines:
            value = one["value"]
            if one["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                files[value["path"]] = hub.uploaded[value["oid"]]
        hub.commits.append({"branch": branch, "message": head["summary"], "files": files})
        hub.files = {**hub.files, **files}
        self.answer(
            200,
            {
                "success": True,
                "commitOid": "d" * 40,
                "commitUrl": f"{hub.url}/{hub.name}/commit/{'d' * 40}",
            },
        )


@contextmanager
def serving(folder: Path | None = None) -> Iterator[Hub]:
    """A hub with the files of a folder, until the end of the block."""
    hub = Hub()
    for path in sorted(folder.rglob("*")) if folder else ():
        if path.is_file():
            hub.files[path.relative_to(folder).as_posix()] = path.read_bytes()  # type: ignore[arg-type]
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

"""A load test of examples/server.py: clients on the loopback address, for some minutes.

    python -m venv service && service/bin/pip install 'goldfold[onnxruntime]' starlette uvicorn
    python -m benchmarks.service out/onnxruntime-fp32 --python service/bin/python --minutes 10

Starts the server on a free port of 127.0.0.1, and 64 clients (`--clients`), each of which sends the
next request as soon as the last is answered: 1 to 4 texts of 1 to 300 words, half of them as
base64. Every vector is compared with the one that `embed` gave for its text alone, before: one
further off than the gate of the artifact's precision (--tolerance; 1−cos) is wrong; a request
without an answer, or with another status than 200, is lost. Some requests are meant to fail, with
status 400, and some clients hang up before the answer. After the time is over the clients stop, the
server is sent SIGINT, and the script fails if it does not end, if an answer was wrong or lost, or
if no batch held texts of two requests. Only the standard library takes part on the clients' side.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import processor, record
from benchmarks.stream_memory import drawn

ROOT = Path(__file__).parents[1]
_TIMEOUT = 120.0


@dataclass
class Seen:
    """What the clients saw."""

    milliseconds: list[float] = field(default_factory=list)
    texts: int = 0
    refused: int = 0
    hung_up: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    worst: float = 0.0
    to_the_bit: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Load:
    """The texts with their vectors, and how to ask."""

    port: int
    texts: list[str]
    rows: np.ndarray
    tolerance: float
    until: float


def ask(port: int, path: str, body: Any = None, timeout: float = _TIMEOUT) -> tuple[int, Any]:
    """Returns the status and the JSON of one request."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        if body is None:
            link.request("GET", path)
        else:
            link.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = link.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        link.close()


def client(load: Load, seed: int, seen: Seen) -> None:
    """Ask until the time is over."""
    dice = random.Random(seed)
    while time.monotonic() < load.until:
        chosen = dice.sample(range(len(load.texts)), dice.randint(1, 4))
        form = dice.choice(["float", "base64"])
        body = {"input": [load.texts[at] for at in chosen], "encoding_format": form, "model": "m"}
        kind = dice.random()
        try:
            if kind < 0.02:
                status, _ = ask(load.port, "/v1/embeddings", {**body, "input": [1.5]})
                with seen.lock:
                    seen.refused += 1
                    if status != 400:
                        seen.wrong.append(f"status {status} for texts that are none")
                continue
            if kind < 0.04:
                hang_up(load.port, body)
                with seen.lock:
                    seen.hung_up += 1
                continue
            began = time.perf_counter()
            status, found = ask(load.port, "/v1/embeddings", body)
            took = 1e3 * (time.perf_counter() - began)
        except (OSError, http.client.HTTPException, ValueError) as error:
            with seen.lock:
                seen.lost.append(f"{type(error).__name__}: {error}")
            continue
        with seen.lock:
            if status != 200:
                seen.lost.append(f"status {status}: {found}")
                continue
            seen.milliseconds.append(took)
            compare(load, chosen, form, found, seen)


def hang_up(port: int, body: Any) -> None:
    """Send a request, and leave before it is answered."""
    raw = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT) as link:
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
        link.sendall(head.encode() + raw)


def compare(load: Load, chosen: list[int], form: str, found: Any, seen: Seen) -> None:
    """Hold each vector to the one of its text alone."""
    if [one["index"] for one in found["data"]] != list(range(len(chosen))):
        seen.wrong.append("another number or order of vectors")
        return
    for at, one in zip(chosen, found["data"], strict=True):
        raw = one["embedding"]
        row = np.frombuffer(base64.b64decode(raw), "<f4") if form == "base64" else np.array(raw)
        row, own = row.astype(np.float32), load.rows[at]
        wide, alone = row.astype(np.float64), own.astype(np.float64)
        away = 1 - wide @ alone / np.linalg.norm(wide) / np.linalg.norm(alone)
        seen.texts += 1
        seen.to_the_bit += bool(np.array_equal(row, own))
        seen.worst = max(seen.worst, away)
        if not away <= load.tolerance:
            seen.wrong.append(f"1−cos {away:.1e} of text {at}")


def started(python: str, artifact: Path, wait_ms: float) -> tuple[subprocess.Popen, int]:
    """Starts the server; returns it and its port once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [python, str(ROOT / "examples" / "server.py"), str(artifact), "--port", str(port)]
    words += ["--wait-ms", str(wait_ms)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    server = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path})
    for _ in range(600):
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode} before it answered")
        try:
            ask(port, "/v1/models", timeout=5)
            return server, port
        except OSError:
            time.sleep(0.1)
    server.kill()
    sys.exit("the server did not answer within a minute")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--python", default=sys.executable, help="one with starlette and uvicorn")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--texts", type=int, default=400, help="number of different texts")
    parser.add_argument("--tolerance", type=float, help="1−cos; by default the gate's worst")
    parser.add_argument("--wait-ms", type=float, default=2.0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()

    from goldfold import load
    from goldfold.golden import gate

    encoder = load(asked.artifact)
    precision = encoder.bundle.manifest.precision
    tolerance = asked.tolerance or gate.gate_for(precision).worst
    dice = random.Random(7)
    texts = [
        next(drawn(1, dice.choice([1, 3, 8, 20, 60, 200]), seed)) for seed in range(asked.texts)
    ]
    rows = np.concatenate([encoder.embed(text) for text in texts])
    del encoder

    server, port = started(asked.python, asked.artifact, asked.wait_ms)
    seen = Seen()
    try:
        until = time.monotonic() + 60 * asked.minutes
        how = Load(port, texts, rows, tolerance, until)
        threads = [
            threading.Thread(target=client, args=(how, seed, seen)) for seed in range(asked.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        batches = ask(port, "/batches")[1]
    finally:
        server.send_signal(signal.SIGINT)
        try:
            ended = server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            ended = None
    sys.exit(report(asked, tolerance, seen, batches, ended))


def report(
    asked: argparse.Namespace, tolerance: float, seen: Seen, batches: Any, ended: int | None
) -> int:
    """Print what was seen; returns the exit status."""
    spread = [50, 90, 95, 99, 100]
    times = dict(zip(spread, np.percentile(seen.milliseconds or [np.nan], spread), strict=True))
    shared = sum(count for size, count in batches["requests"].items() if int(size) > 1)
    calls = sum(batches["requests"].values())
    print(f"{asked.clients} clients, {asked.minutes:g} minutes, {processor()}")
    print(
        f"{len(seen.milliseconds)} requests answered, {seen.texts} vectors: {len(seen.wrong)} "
        f"wrong, {len(seen.lost)} lost; {seen.refused} refused and {seen.hung_up} hung up, as meant"
    )
    same = seen.to_the_bit / max(seen.texts, 1)
    print(
        f"worst 1−cos {seen.worst:.1e}, limit {tolerance:.0e}; {same:.1%} are the same to the bit"
    )
    print("milliseconds: " + ", ".join(f"p{at} {took:.0f}" for at, took in times.items()))
    print(f"calls of the runtime: {calls}, of which {shared} had texts of several requests")
    for name in ("texts", "requests"):
        counts = Counter({int(size): count for size, count in batches[name].items()})
        top = max(counts.values(), default=1)
        print(f"{name} a call:")
        for size in sorted(counts):
            print(f"  {size:3} {'#' * round(40 * counts[size] / top)} {counts[size]}")
    print(f"the server ended with {ended}" if ended is not None else "the server did not end")
    for why in (seen.wrong + seen.lost)[:10]:
        print(f"  {why}")
    record(
        asked.json,
        {
            "clients": asked.clients, "minutes": asked.minutes, "processor": processor(),
            "answered": len(seen.milliseconds), "vectors": seen.texts, "wrong": len(seen.wrong),
            "lost": len(seen.lost), "worst": seen.worst, "milliseconds": times, "batches": batches,
        },
    )  # fmt: skip
    return int(bool(seen.wrong or seen.lost or not shared or ended is None))


if __name__ == "__main__":
    main()

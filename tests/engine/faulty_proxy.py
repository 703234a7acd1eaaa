"""A proxy that stands before a server and lets some requests fail, each in another way."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

ANSWERS: Mapping[str, tuple[int, bytes, Mapping[str, str]]] = {
    "429": (429, b'{"error": {"message": "slow down"}}', {"Retry-After": "1"}),
    "500": (500, b"oops", {}),
    "no json": (200, b"<html>busy</html>", {}),
    "no choices": (200, b'{"object": "chat.completion", "choices": []}', {}),
}
FAULTS = ("hangs", "cut", "cut late", *ANSWERS)


class FaultyProxy:
    """Passes requests on to `upstream`; of all requests a share meets a fault instead.

    Args:
        upstream: ``http://host:port``.
        share: of the requests that fail.
        hang: seconds that a request hangs; longer than the client waits.
        seed: of what fails and how.
    """

    def __init__(self, upstream: str, share: float = 0.2, hang: float = 3.0, seed: int = 0) -> None:
        place = urlsplit(upstream)
        self.host, self.port, self.share, self.hang = place.hostname or "", place.port or 80, share, hang
        self.draw = random.Random(seed)
        self.lock = threading.Lock()
        self.faults: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        """Bodies that were answered well, each with how often."""
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FaultyProxy:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def fault(self) -> str:
        """Return what befalls the next request; nothing if it passes."""
        with self.lock:
            found = self.draw.choice(FAULTS) if self.draw.random() < self.share else ""
            self.faults[found] += bool(found)
            return found

    def ask(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return the upstream server's answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=600)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.proxy.fault()
        with contextlib.suppress(OSError):  # whoever asked may be gone
            if fault in ANSWERS:
                self._send(*ANSWERS[fault])
            elif fault == "hangs":
                time.sleep(self.proxy.hang)
                self.connection.close()
            elif fault == "cut":
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self._pass_on(body, cut=bool(fault))

    def _pass_on(self, body: bytes, cut: bool) -> None:
        status, data = self.proxy.ask(self.path, body)
        if cut:
            self._send(status, data[: len(data) // 2], {"Content-Length": str(len(data))})
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        with self.proxy.lock:
            self.proxy.passed[json.dumps(json.loads(body), sort_keys=True)] += 1
        self._send(status, data)

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        found = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        for name, value in found.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass

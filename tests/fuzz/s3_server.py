"""A bad S3 server: moto's, behind a proxy that spoils answers as the first part of each path says. In a process of its own."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from tests.bad_servers import drop, fail, s3_error, silence
from tests.fuzz.bases import IMAGES
from tests.servers import Turn

BUCKET = "digits"
"""What commands are told; the server has another bucket in its place, so that cases do not meet and all files are equal."""
SILENCE = 3.0
ENDLESS = 6 << 30
INSTEAD: dict[str, Turn] = {
    "500": fail(500),
    "503": fail(503),
    "502 page": s3_error(502, "BadGateway"),
    "SlowDown": s3_error(503, "SlowDown"),
    "InternalError": s3_error(500, "InternalError"),
    "429": fail(429, Retry_After="1"),
    "429 for long": fail(429, Retry_After="9999999"),
    "drop": drop,
    "silence": silence(SILENCE),
    "404": s3_error(404, "NoSuchKey"),
    "403": s3_error(403, "AccessDenied"),
    "301": s3_error(301, "PermanentRedirect"),
}
CHANGED = (
    "slow",
    "lost",
    "cut",
    "short",
    "long",
    "more than said",
    "endless",
    "flipped",
    "another range",
    "another length",
    "compressed",
)
PASSING = frozenset(INSTEAD) - {"404", "403", "301"} | {"slow", "lost", "cut", "short"}
"""Of images and their names, of which nobody has told a hash, only these are done: one that is refused for good is stored as
missing, and one that was changed on the way is taken as it is."""
WAYS = (*INSTEAD, *INSTEAD, *CHANGED)


@dataclass(frozen=True)
class Plan:
    """What is done to the requests of a case. `rate`: to how many of a hundred; `way`: always this one, or any."""

    bucket: str
    seed: int = 0
    rate: int = 0
    way: str = "any"

    @property
    def path(self) -> str:
        """First part of the paths."""
        return f"{self.bucket}~{self.seed}~{self.rate}~{WAYS.index(self.way) if self.way in WAYS else -1}"

    @classmethod
    def of(cls, path: str) -> Plan:
        bucket, seed, rate, way = path.split("~")
        return cls(bucket, int(seed), int(rate), WAYS[int(way)] if int(way) >= 0 else "any")


def serve(line: Connection) -> None:
    """Run both servers, and tell their addresses."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    behind = ":".join(map(str, moto.get_host_and_port()))
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _proxy(behind))
    proxy.daemon_threads = True
    line.send((f"http://{behind}", f"http://127.0.0.1:{proxy.server_address[1]}"))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    with suppress(EOFError):
        line.recv()
    os._exit(0)


def _proxy(behind: str) -> type[SimpleHTTPRequestHandler]:
    counts: dict[str, int] = defaultdict(int)
    counting = threading.Lock()

    class Proxy(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # clients of S3 send "Expect: 100-continue"

        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # whoever asked was killed
                super().handle()

        def do_any(self) -> None:
            self.close_connection = True
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            first, _, rest = self.path.lstrip("/").partition("/")
            plan = Plan.of(first)
            with counting:
                counts[first] += 1
                rng = np.random.default_rng([plan.seed, counts[first]])
            way = None
            if int(rng.integers(100)) < plan.rate:
                way = WAYS[int(rng.integers(len(WAYS)))] if plan.way == "any" else plan.way
            if IMAGES in rest and way not in PASSING:
                way = None
            if way in INSTEAD:
                INSTEAD[way](self)
                return
            there = http.client.HTTPConnection(behind)
            headers = {k: v for k, v in self.headers.items() if k != "Expect"}
            there.request(self.command, f"/{plan.bucket}{rest.removeprefix(BUCKET)}", content, headers)
            answer = there.getresponse()
            self._answer(way, answer.status, dict(answer.getheaders()), answer.read(), rng)

        def _answer(self, way: str | None, status: int, headers: dict[str, str], body: bytes, rng: Any) -> None:
            headers = {
                k: v for k, v in headers.items() if k.lower() not in ("transfer-encoding", "connection", "date", "server")
            }
            length, times = headers.get("Content-Length", str(len(body))), 1
            if way == "lost":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if self.command == "HEAD" and way in ("short", "long"):
                pass  # there is no body
            elif way == "cut":
                body = body[: int(rng.integers(len(body) + 1))]
            elif way == "short":
                body = body[: len(body) // 2]
                length = str(len(body))
            elif way == "long":
                body += b"\0" * int(rng.integers(1, 1 << 20))
                length = str(len(body))
            elif way == "more than said":
                body += b"\0" * (1 << 16)
            elif way == "endless":
                body, length, times = body or b"<x>", "", ENDLESS >> 20
                body = (body * (1 + (1 << 20) // len(body)))[: 1 << 20]
            elif way == "flipped" and body:
                place = int(rng.integers(len(body)))
                body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
            elif way == "another range":
                headers["Content-Range"] = "bytes 7-9/1000"
            elif way == "another length":
                length = str(int(rng.choice([0, 1, len(body) * 2 + 9, 1 << 62])))
            elif way == "compressed":
                headers["Content-Encoding"] = "gzip"
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() != "content-length":
                    self.send_header(name, value)
            if length:
                self.send_header("Content-Length", length)
            self.end_headers()
            for _ in range(times if self.command != "HEAD" else 0):
                self.wfile.write(body[:50])
                if way == "slow":
                    time.sleep(0.5)
                self.wfile.write(body[50:])

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

    return Proxy

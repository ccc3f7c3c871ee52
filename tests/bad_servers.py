"""What servers do that they should not: turns for `Served.turns`, and a proxy before moto's S3 that takes such turns."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler as Handler
from urllib.parse import urlsplit

from tests.servers import Served, Turn, running


def fail(status: int, **headers: str) -> Turn:
    """Answer with a status, and nothing else."""

    def turn(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": "0", **{k.replace("_", "-"): v for k, v in headers.items()}}.items():
            handler.send_header(name, value)
        handler.end_headers()

    return turn


def s3_error(status: int, code: str) -> Turn:
    """Answer as S3 does."""

    def turn(handler: Handler) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said by a test</Message></Error>".encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/xml")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return turn


def drop(handler: Handler) -> None:
    """Close the connection without an answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def silence(seconds: float) -> Turn:
    """Take the request, and say nothing for so long."""

    def turn(handler: Handler) -> None:
        time.sleep(seconds)

    return turn


def send(body: bytes, length: int | None = None, status: int = 206, times: int = 1, pause: float = 0.0, **headers: str) -> Turn:
    """Send this, so many times over; `length`: what is said of it, default: its length."""

    def turn(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) * times if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        with suppress(OSError):  # who asked has left
            for _ in range(times if handler.command != "HEAD" else 0):
                handler.wfile.write(body)
                served_bytes[0] += len(body)
                time.sleep(pause)

    return turn


served_bytes = [0]
"""What `send` has sent in all."""


def bomb(length: int) -> Turn:
    """So many zeros, compressed a thousand times; the length is as promised."""
    packed = gzip.compress(bytes(length))
    return send(packed, Content_Encoding="gzip")


@contextmanager
def before_s3() -> Iterator[Served]:
    """A proxy before the S3 server that runs: `turns` are taken in place of its answers."""
    import s3fs

    behind = os.environ["AWS_ENDPOINT_URL"]
    served = Served("")

    class Proxy(Handler):
        protocol_version = "HTTP/1.1"  # clients of S3 send "Expect: 100-continue"

        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def do_any(self) -> None:
            served.requests.append((self.command, self.path, self.headers.get("Range")))
            self.close_connection = True
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if turn := served.turns.pop(0) if served.turns else None:
                turn(self)
                return
            there = http.client.HTTPConnection(urlsplit(behind).netloc)
            there.request(self.command, self.path, content, {k: v for k, v in self.headers.items() if k != "Expect"})
            answer = there.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

    with running(Proxy) as url:
        served.url = os.environ["AWS_ENDPOINT_URL"] = url
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield served
        finally:
            os.environ["AWS_ENDPOINT_URL"] = behind
            s3fs.S3FileSystem.clear_instance_cache()

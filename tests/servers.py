"""Real servers on loopback that stop by themselves: plain HTTP with range requests, and S3."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Served:
    """A running HTTP server: its address, and what it was asked for and gave."""

    url: str
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    sent: int = 0  # bytes of content
    failures: dict[str, int] = field(default_factory=dict)  # path -> how many more times it fails
    ranges: bool = True
    broken_after: int | None = None  # bytes of content after which connections are cut


@contextmanager
def serve_http(root: Path) -> Iterator[Served]:
    """A folder over HTTP, with range requests."""
    served = Served("")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(root))  # type: ignore[arg-type]

        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            asked = self.headers.get("Range")
            served.requests.append((self.command, self.path, asked))
            if served.failures.get(self.path, 0) > 0:
                served.failures[self.path] -= 1
                self.send_error(503)
                return
            path = Path(self.translate_path(self.path))
            if not path.is_file():
                self.send_error(404)
                return
            size = path.stat().st_size
            start, stop = 0, size
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "") if served.ranges else None
            if match:
                start, stop = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
            self.send_response(206 if match else 200)
            self.send_header("Content-Length", str(stop - start))
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}-{size}"')
            if served.ranges:
                self.send_header("Accept-Ranges", "bytes")
            if match:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.end_headers()
            if body:
                with open(path, "rb") as file:
                    file.seek(start)
                    content = file.read(stop - start)
                if served.broken_after is not None:
                    content = content[: max(0, served.broken_after - served.sent)]
                served.sent += len(content)
                self.wfile.write(content)
                if len(content) < stop - start:
                    self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serve_s3(bucket: str) -> Iterator[str]:
    """An S3 server with an empty bucket; its address. Credentials and endpoint are in the environment while it runs."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(bucket)
        yield f"s3://{bucket}"
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})

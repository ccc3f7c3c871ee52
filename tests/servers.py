"""Servers on loopback that stop by themselves: HTTP with ranges, moto's S3, and what the Hub's client needs of a Hub."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

Turn = Callable[[SimpleHTTPRequestHandler], None]
"""What a server does with a request: `tests/bad_servers.py` has the bad ones."""


@dataclass
class Served:
    """A running HTTP server: its address, and what it was asked for and gave."""

    url: str
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    sent: int = 0  # bytes of content
    failures: dict[str, int] = field(default_factory=dict)  # path -> how many more times it fails
    ranges: bool = True
    version: str | None = "ETag"  # the header that tells versions apart, or Last-Modified
    broken_after: int | None = None  # bytes of content after which connections are cut
    turns: list[Turn | None] = field(default_factory=list)  # what the next requests get; None: the right answer
    lists: list[Turn] = field(default_factory=list)  # of a Hub: what the next requests for names get
    commits: list[Turn] = field(default_factory=list)  # of a Hub: what the next commits get


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
            if turn := served.turns.pop(0) if served.turns else None:
                self.close_connection = True
                turn(self)
                return
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
            if served.version == "ETag":
                self.send_header("ETag", f'"{path.stat().st_mtime_ns}-{size}"')
            elif served.version == "Last-Modified":
                self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
            self.send_header("Content-Type", "application/octet-stream")
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

    with running(Handler) as url:
        served.url = url
        yield served


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
        s3fs.S3FileSystem().makedirs(bucket, exist_ok=True)  # servers of one process share what they hold
        yield f"s3://{bucket}"
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def serve_hub(root: Path) -> Iterator[Served]:
    """What the Hub's client needs of the Hub, to make a data set repository, upload to it and read from it."""
    served = Served("")
    revision = "0" * 40
    stored: dict[str, bytes] = {}  # large files by hash

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def _json(self, value: object, code: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _content(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _entry(self, repo: Path, file: Path) -> dict[str, object]:
            digest = hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()
            return {"type": "file", "path": file.relative_to(repo).as_posix(), "size": file.stat().st_size, "oid": digest}

        def do_POST(self) -> None:
            served.requests.append(("POST", self.path, self.headers.get("Authorization")))
            content = self._content()
            path = unquote(urlsplit(self.path).path)
            if self.headers.get("Authorization") != "Bearer secret":
                self._json({"error": "Invalid credentials"}, 401)
            elif path == "/api/repos/create":
                about = json.loads(content)
                name = f"{about.get('organization') or 'me'}/{about['name']}"
                (root / name).mkdir(parents=True, exist_ok=True)
                self._json({"url": f"{served.url}/datasets/{name}", "id": name})
            elif path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/preupload/main", path):
                names = [f["path"] for f in json.loads(content)["files"]]
                # As the Hub does: text goes into the commit, the rest into large file storage.
                mode = {n: "lfs" if n.endswith((".zip", ".parquet", ".tar")) else "regular" for n in names}
                self._json({"files": [{"path": n, "uploadMode": mode[n], "shouldIgnore": False} for n in names]})
            elif re.fullmatch(r"/datasets/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
                wanted = json.loads(content)["objects"]
                href = {o["oid"]: {"upload": {"href": f"{served.url}/lfs/{o['oid']}", "header": {}}} for o in wanted}
                self._json({"transfer": "basic", "objects": [{**o, "actions": href[o["oid"]]} for o in wanted]})
            elif served.commits and path.endswith("/commit/main"):
                self.close_connection = True
                served.commits.pop(0)(self)
            elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/commit/main", path):
                for line in map(json.loads, content.splitlines()):
                    if line["key"] in ("file", "lfsFile"):
                        about, target = line["value"], root / match[1] / line["value"]["path"]
                        target.parent.mkdir(parents=True, exist_ok=True)
                        large = line["key"] == "lfsFile"
                        target.write_bytes(stored[about["oid"]] if large else base64.b64decode(about["content"]))
                self._json(
                    {
                        "commitUrl": f"{served.url}/datasets/{match[1]}/commit/{revision}",
                        "commitOid": revision,
                        "hookOutput": "",
                    }
                )
            elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/[^/]+", path):
                repo = root / match[1]
                asked = parse_qs(content.decode()).get("paths") if b"=" in content else json.loads(content)["paths"]
                self._json([self._entry(repo, repo / p) for p in asked or [] if (repo / p).is_file()])
            else:
                self._json({"error": path}, 404)

        def do_PUT(self) -> None:
            served.requests.append(("PUT", self.path, None))
            content = self._content()
            oid = self.path.rpartition("/")[2]
            if hashlib.sha256(content).hexdigest() == oid:
                stored[oid] = content
            self._json({}, 200 if oid in stored else 400)

        def do_HEAD(self) -> None:
            self._get(body=False)

        def do_GET(self) -> None:
            self._get(body=True)

        def _get(self, body: bool) -> None:
            served.requests.append((self.command, self.path, self.headers.get("Range")))
            if "/resolve/" in self.path and (turn := served.turns.pop(0) if served.turns else None):
                self.close_connection = True
                turn(self)
                return
            path = unquote(urlsplit(self.path).path)
            if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+?)(/revision/[^/]+)?", path):
                known = (root / match[1]).is_dir()
                self._json(
                    {"id": match[1], "sha": revision, "siblings": []} if known else {"error": "no"}, 200 if known else 404
                )
            elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+(/.*)?", path):
                if served.lists:
                    self.close_connection = True
                    served.lists.pop(0)(self)
                    return
                repo = root / match[1]
                self._json([self._entry(repo, f) for f in sorted(repo.rglob("*")) if f.is_file()])
            elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.*)", path):
                self._file(root / match[1] / match[2], body)
            else:
                self._json({"error": path}, 404)

        def _file(self, file: Path, body: bool) -> None:
            if not file.is_file():
                self._json({"error": "Entry not found"}, 404)
                return
            content = file.read_bytes()
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            part = content[int(match[1]) : int(match[2]) + 1] if match else content
            self.send_response(206 if match else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"')
            self.send_header("X-Repo-Commit", revision)
            if match:
                self.send_header("Content-Range", f"bytes {match[1]}-{int(match[1]) + len(part) - 1}/{len(content)}")
            self.end_headers()
            if body:
                served.sent += len(part)
                self.wfile.write(part)

    with running(Handler) as url:
        served.url = url
        yield served


@contextmanager
def running(handler: type[SimpleHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()

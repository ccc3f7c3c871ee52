"""Commands: every command that writes, as it is run on the bases; what it wrote, in a form that can be compared."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load as load_safetensors

from reinforce.cli.main import _leave, main
from reinforce.errors import ReinforceError
from reinforce.packs.open_labels import open_pack
from reinforce.store.store import Store
from reinforce.verification.verify import verify_store
from reinforce.verification.verify_pack import verify_pack
from tests.fuzz.bases import IMAGES, WEIGHTS
from tests.fuzz.trial import Fault
from tests.processes import children, descendants, name_of

Arguments = Callable[[Path, Path, int], list[object]]
_SMALL = ("--device", "cpu", "--workers")
_ALL_VIEWS = ("--views", 4, "--stripe-views", 2, "--block-size", 2, "--size", 32)
COMMANDS: dict[str, Arguments] = {
    "generate": lambda b, out, w: [
        "generate", "--data", b / IMAGES, "--teacher", "test_resnet", "--teacher-weights", b / WEIGHTS, *_ALL_VIEWS, *_SMALL, w,
        "--batch-size", 8, "--out", out,
    ],
    "train": lambda b, out, w: [
        "train", "--student", "test_resnet", "--data", b / IMAGES, "--labels", b / "store", "--epochs", 2, "--batch-size", 3,
        "--save-every", 1, *_SMALL, w, "--resume", "--out", out,
    ],
    "pack": lambda b, out, w: ["pack", b / "mixed", "--data", b / IMAGES, "--shard-size", 0.003, "--out", out],
    "publish": lambda b, out, w: ["publish", b / "mixed", "--to", out, "--name", "digits"],
    "publish pack": lambda b, out, w: ["publish", b / "mixed-pack", "--to", out, "--name", "digits", "--with-images"],
    "pull": lambda b, out, w: ["pull", b / "publication", "--jobs", 1 + w, "--out", out],
    "pull pack": lambda b, out, w: ["pull", b / "pack-publication", "--jobs", 1 + w, "--out", out],
    "import": lambda b, out, w: [
        "import", "fkd", b / "fkd", "--data", b / IMAGES, "--num-classes", 3, "--size", 32, "--workers", w, "--out", out,
    ],
    "export": lambda b, out, w: ["export", b / "imported", "--format", "ml-dr", "--topk", 2, "--out", out],
}  # fmt: skip
_WAYS: dict[str, tuple[object, ...]] = {
    "generate on two": ("--processes", 2),
    "generate a share": ("--share", "1/1"),
    "generate with ray": ("--engine", "ray", "--ray-address", "local"),
}


def _other(more: tuple[object, ...]) -> Arguments:
    return lambda b, out, w: [*COMMANDS["generate"](b, out, w), *more]


OTHER_ENGINES = {name: _other(more) for name, more in _WAYS.items()}
OTHER_ENGINES |= {f"{name}, mixed": _other((*more, "--policy", "usi")) for name, more in _WAYS.items()}
"""Ways of `generate`; what writes is not, or not only, the process that was started. Each without and with mixing."""
GROWING = frozenset({"train"})
"""Commands whose files change while they run; of the others each file appears whole, once."""
RESENDS = frozenset({"publish", "publish pack"})
"""Commands that send all files again."""
_TIMES = ("seconds", "images_per_second", "processes", "out")


@dataclass
class Run:
    """A command in a process group of its own."""

    pid: int
    said: Path

    def end(self) -> tuple[int, str]:
        """Exit code, negative for a signal, and what it said."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), self.said.read_text(errors="replace")


def start(arguments: list[object], place: Path, said: Path, file_size: int | None = None) -> Run:
    """Fork a process that runs a command in the folder `place`; `file_size`: bytes that a file may have, as of a full disk."""
    sys.stdout.flush()
    said.write_bytes(b"")  # here: the process may be killed before it can
    meant = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, meant)  # until the command itself runs
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, meant)
        os.setpgid(pid, pid)
        return Run(pid, said)
    code = 70
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, _leave)  # as `main` does first; what comes before it is Python's own start
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        multiprocessing.util._finalizer_registry.clear()  # type: ignore[attr-defined]
        handle = os.open(said, os.O_WRONLY)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 - the process's own
        if file_size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
        os.chdir(place)
        sys.argv = ["reinforce", *map(str, arguments)]
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, meant)
        except KeyboardInterrupt:  # before the command began
            os._exit(130)
        main()
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    except BaseException:  # noqa: BLE001 - as Python itself ends
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def workers_of(pid: int) -> list[int]:
    """The processes that work for a command; of a Ray cluster that it has started: its actors, and what starts them."""
    names = {each: name_of(each) for each in descendants(pid)}
    if "gcs_server" in names.values():
        return [each for each, name in names.items() if name == "raylet" or name.startswith("ray::RayActor")]
    return children(pid)


def digests(out: Path) -> dict[str, str]:
    """Hash of what each file below a folder says; what tells the time is left out."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".jsonl" or path.name == "summary.json":
                content = _timeless(content)
            elif path.suffix == ".safetensors" and out.name == "train":
                tensors = load_safetensors(content)
                content = b"".join(name.encode() + tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors))
            found[path.relative_to(out).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def _timeless(content: bytes) -> bytes:
    if not content:
        return content
    sink = io.StringIO()
    for line in content.decode().splitlines() if content[:1] == b"{" and b"}\n{" in content else [content.decode()]:
        sink.write(json.dumps(_without_times(json.loads(line)), sort_keys=True))
    return sink.getvalue().encode()


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in _TIMES}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def out_of(name: str) -> Path:
    """Where a command writes, below the folder that it runs in."""
    return Path("train" if name == "train" else "out")


def look(name: str, out: Path, wanted: dict[str, str]) -> dict[str, int]:
    """Check what a reader may see now; the inodes of what is committed."""
    if not out.exists() or name in GROWING:
        return {}
    seen = {p: d for p, d in digests(out).items() if p in wanted and not any(part.startswith(".") for part in p.split("/"))}
    if half := [path for path, digest in seen.items() if digest != wanted[path]]:
        raise Fault("half of a file is seen", ", ".join(half[:3]))
    for block in {path.split("/")[1] for path in seen if path.startswith("blocks/") and ".zarr/" in path}:
        if any(path not in seen for path in wanted if path.startswith(f"blocks/{block}/")):
            raise Fault("half of a block is seen", block)
    try:
        if "manifest.json" in seen and "publication.json" not in wanted:
            Store(out)
            if failures := [failure for check in verify_store(out) for failure in check.failures]:
                raise Fault("a manifest before its files", failures[0])
        if "pack.json" in seen and any(check.failed for check in verify_pack(open_pack(out))):  # type: ignore[arg-type]
            raise Fault("a manifest before its files", name)
        if "publication.json" in seen and seen != wanted:
            raise Fault("a list before its files", name)
    except ReinforceError as error:
        raise Fault("what is complete cannot be opened", str(error)) from None
    if name in RESENDS:
        return {}
    lasting = ("blocks/", "shards")
    return {path: (out / path).stat().st_ino for path in seen if path.startswith(lasting)}

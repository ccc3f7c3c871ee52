"""Target: a place to publish to: a folder, a URL that fsspec writes to, or a data set repository on the Hub."""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from reinforce.errors import StoreError, UsageError, first_line
from reinforce.files import make_folder, replacing, write_atomic, writing
from reinforce.locks import only_writer
from reinforce.sources.location import is_remote
from reinforce.sources.retry import TRIES, retried
from reinforce.sources.server import file_system, hub_session

_HUB_S = 300.0
"""Seconds in which the Hub must answer an upload: it makes the commit meanwhile."""
_HUB = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)/?")


class Target(Protocol):
    """A place that files are written to; readers see the file that was put last no earlier than the others."""

    def put(self, path: str, content: bytes) -> None:
        """Write one file.

        Raises:
            StoreError: it cannot be written.
        """

    def put_file(self, path: str, file: Path) -> None:
        """Copy one file from this machine."""

    def finish(self) -> None:
        """Call this after the last file."""

    def abandon(self) -> None:
        """Call this instead of `finish` if something failed."""


def open_target(to: str) -> Target:
    """The target that `--to` names.

    Raises:
        UsageError: a URL that cannot be written to.
    """
    if not is_remote(to):
        return FolderTarget(Path(to))
    if to.startswith("hf://"):
        return HubTarget(to)
    if to.startswith(("http://", "https://")):
        raise UsageError(f"{to} cannot be written to.", expected="a folder, s3://BUCKET/PATH or hf://datasets/USER/NAME")
    return UrlTarget(to)


class FolderTarget:
    """A folder on this machine; nobody else may write it until `finish` or `abandon`.

    Raises:
        BusyError: another process writes it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held = ExitStack()
        with writing(root):
            make_folder(root)
            self._held.enter_context(only_writer(root))

    def put(self, path: str, content: bytes) -> None:
        with writing(self.root):
            make_folder((self.root / path).parent)
            write_atomic(self.root / path, content)

    def put_file(self, path: str, file: Path) -> None:
        with writing(self.root):
            target = self.root / path
            make_folder(target.parent)
            with replacing(target) as temporary:
                shutil.copyfile(file, temporary)

    def finish(self) -> None:
        self._held.close()

    def abandon(self) -> None:
        self._held.close()


class UrlTarget:
    """A place that fsspec writes to, such as `s3://bucket/path`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.fs, self.base = file_system(self.url, tries=TRIES)

    def put(self, path: str, content: bytes) -> None:
        self._tried(lambda: self.fs.pipe_file(f"{self.base}/{path}", content))

    def put_new(self, path: str, content: bytes) -> bool:
        """As `put`, unless the file is there; in one step where the server knows conditional writes, as S3 does.

        Returns:
            Whether it was not there.
        """

        def once() -> bool:
            try:
                self.fs.pipe_file(f"{self.base}/{path}", content, mode="create")
            except FileExistsError:
                return False
            return True

        return bool(self._tried(once))

    def remove(self, path: str) -> None:
        """Remove one file; one that is absent is no error."""

        def gone() -> None:
            with suppress(FileNotFoundError):
                self.fs.rm_file(f"{self.base}/{path}")

        self._tried(gone)

    def put_file(self, path: str, file: Path) -> None:
        self._tried(lambda: self.fs.put_file(str(file), f"{self.base}/{path}"))

    def _tried(self, call: Any) -> Any:
        try:
            if "s3" in self.fs.protocol:
                return call()  # its client tries each request again: of a large file, one part is a request
            return retried(call, self.url)
        except Exception as error:  # noqa: BLE001 - each protocol's client raises errors of its own
            raise StoreError(
                f"{self.url} cannot be written.",
                found=first_line(error),
                cause="missing credentials or permissions, no such bucket, or a server that does not answer",
                fix="set the credentials that the client of this protocol reads, and run the same command again",
            ) from None

    def finish(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class HubTarget:
    """A data set repository on the Hugging Face Hub; files are collected in a temporary folder and sent in one commit."""

    def __init__(self, url: str) -> None:
        match = _HUB.fullmatch(url)
        if not match:
            raise UsageError(f"{url} is no repository of data sets.", expected="hf://datasets/USER/NAME")
        self.repo = match[1]
        self.staging = Path(tempfile.mkdtemp(prefix="reinforce-"))

    def put(self, path: str, content: bytes) -> None:
        with writing(self.staging):
            (self.staging / path).parent.mkdir(parents=True, exist_ok=True)
            (self.staging / path).write_bytes(content)

    def put_file(self, path: str, file: Path) -> None:
        with writing(self.staging):
            (self.staging / path).parent.mkdir(parents=True, exist_ok=True)
            (self.staging / path).symlink_to(file.resolve())

    def finish(self) -> None:
        from huggingface_hub import HfApi

        api = HfApi()

        def send() -> None:
            hub_session(_HUB_S)
            api.create_repo(self.repo, repo_type="dataset", exist_ok=True)
            api.upload_folder(  # it sends only what is not there yet
                repo_id=self.repo, repo_type="dataset", folder_path=self.staging, commit_message="Publish a reinforced dataset"
            )

        try:
            retried(send, f"hf://datasets/{self.repo}")
        except Exception as error:  # noqa: BLE001 - the client raises errors of its own
            raise StoreError(
                f"hf://datasets/{self.repo} cannot be written.",
                found=first_line(error),
                cause="no token, or one without write access",
                fix="hf auth login, and run the same command again",
            ) from None
        finally:
            hub_session()
            self.abandon()

    def abandon(self) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)

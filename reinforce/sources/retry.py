"""Retry: what a server cannot do for a while is asked for again, after growing pauses; what will not change is not.

Each protocol's client raises errors of its own, and some hide the server's answer in the cause of another error: fsspec's HTTP
file system turns every failed `info` into FileNotFoundError. So the status is looked for in the error and in its causes.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from reinforce.errors import ReinforceError, first_line

TRIES = 5
"""How often a server is asked in all, if it fails for a while."""
PAUSE_S = 1.0
"""Seconds before the second try; each further pause is twice as long: 1, 2, 4 and 8 s, each up to a quarter more or less."""
LONGEST_PAUSE_S = 60.0
"""Seconds that a server's Retry-After can make a pause last."""
TIMEOUT_S = 30.0
"""Seconds in which a server must answer, or send something more."""

_PASSING = {408, 425, 429, 500, 502, 503, 504}
_ABSENT, _FORBIDDEN = {404, 410}, {401, 403}
_FINAL = (ReinforceError, MemoryError, ValueError, TypeError, LookupError, AttributeError, ImportError, NotImplementedError)
_FINAL_NAMES = {"NoCredentialsError", "PartialCredentialsError"}  # botocore's
_SAID_EVERY_S = 5.0

_log = logging.getLogger(__name__)
_threads = threading.local()
_said = [float("-inf")]
_saying = threading.Lock()
_Result = TypeVar("_Result")


class RefusedError(OSError):
    """An answer that is wrong and that a new try would not change."""


class OutageError(OSError):
    """A failure that may pass, and did not while it was tried again."""


def stop_with(event: threading.Event) -> None:
    """From now on, no call of this thread is tried again once `event` is set, and no pause goes on."""
    _threads.stop = event


def retried(call: Callable[[], _Result], what: str) -> _Result:
    """The result of a call to a server; up to 5 tries. While it waits, a line of the log says so.

    Args:
        call: The call; it may be made several times.
        what: Location that the call is about, for the log.

    Raises:
        FileNotFoundError: the server does not have it (404).
        PermissionError: the server does not give it (401, 403).
        OSError: any other failure; after the last try if it is one that may pass.
    """
    for attempt in range(TRIES):
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the client of each protocol raises its own errors
            status, after = _answer(error)
            if not _may_pass(error, status):
                raise _final(error, status) from None
            stop: threading.Event = getattr(_threads, "stop", None) or threading.Event()
            if attempt == TRIES - 1 or stop.is_set():
                raise OutageError(f"{_in_words(error, status)}, tried {attempt + 1} times") from None
            # Processes that failed together do not ask again together. The clock is random enough for that.
            pause = PAUSE_S * 2**attempt * (0.75 + (time.monotonic_ns() + os.getpid()) % 512 / 1024)
            pause = max(pause, min(after, LONGEST_PAUSE_S))
            _say(f"{what}: {_in_words(error, status)}; trying again in {pause:.0f} s ({attempt + 2} of {TRIES})")
            stop.wait(pause)
    raise AssertionError


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = getattr(error, "os_error", None) or error.__cause__ or error.__context__


def _answer(error: BaseException) -> tuple[int | None, float]:
    """Status of the answer, if one came, and its Retry-After in seconds: as aiohttp, botocore and httpx have them."""
    for each in _causes(error):
        response: Any = getattr(each, "response", None)
        if isinstance(response, dict):
            about = response.get("ResponseMetadata", {})
            status, headers = about.get("HTTPStatusCode"), about.get("HTTPHeaders") or {}
        else:
            of = each if response is None else response
            status = getattr(of, "status_code", None) or getattr(of, "status", None)
            headers = getattr(of, "headers", None) or {}
        if isinstance(status, int):
            return status, _seconds(headers.get("Retry-After") or headers.get("retry-after") or "")
    return None, 0.0


def _seconds(retry_after: str) -> float:
    """A number of seconds, or a date; 0 if it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        date = parsedate_to_datetime(retry_after)
        return (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _may_pass(error: Exception, status: int | None) -> bool:
    if isinstance(error, (RefusedError, ReinforceError, MemoryError)):
        return False
    if isinstance(error, TimeoutError):
        return True
    if status is not None:
        return status in _PASSING
    if any(isinstance(e, socket.gaierror) and e.errno == socket.EAI_NONAME for e in _causes(error)):
        return False  # there is no such host; EAI_AGAIN is another error
    if isinstance(error, (FileNotFoundError, PermissionError, *_FINAL)):
        return False
    return type(error).__name__ not in _FINAL_NAMES


def _final(error: Exception, status: int | None) -> Exception:
    if isinstance(error, (RefusedError, ReinforceError, MemoryError)):
        return error
    if status in _ABSENT or (status is None and isinstance(error, FileNotFoundError)):
        return FileNotFoundError(first_line(error))
    if status in _FORBIDDEN or (status is None and isinstance(error, PermissionError)):
        return PermissionError(_in_words(error, status))
    return OSError(_in_words(error, status))


def _in_words(error: Exception, status: int | None) -> str:
    if status is not None:
        return f"the server answers {status}"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return f"no answer within {TIMEOUT_S:g} s"
    return f"{'no answer: ' if 'Connect' in type(error).__name__ else ''}{first_line(error)}"


def _say(text: str) -> None:
    """Many threads wait for the same server: one of them says so."""
    with _saying:
        now = time.monotonic()
        if now - _said[0] >= min(_SAID_EVERY_S, PAUSE_S):
            _said[0] = now
            _log.warning("%s", text)

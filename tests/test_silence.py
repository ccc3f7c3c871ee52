"""Silence: a library's warnings are kept from the user during a call, in the thread that calls, and in no other."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import timm
from PIL import Image
from torch import nn

from reinforce.silence import no_log, no_warnings
from reinforce.teachers.models import create
from reinforce.views.decode import decode
from tests.views.test_decode import PNG

pytestmark = pytest.mark.unit


class Slow:
    """A format of images whose decoding warns and then waits until it is told to go on."""

    def __init__(self) -> None:
        self.begun = {b"SLOW0": threading.Event(), b"SLOW1": threading.Event()}
        self.go_on = {name: threading.Event() for name in self.begun}

    def opened(self, file: Any, name: Any) -> Image.Image:
        which = file.read()
        warnings.warn("a warning of the decoder", stacklevel=1)
        self.begun[which].set()
        assert self.go_on[which].wait(60)
        return Image.new("RGB", (2, 3))


@pytest.fixture
def slow() -> Iterator[Slow]:
    Image.preinit()
    made = Slow()
    Image.register_open("SLOW", made.opened, lambda start: start.startswith(b"SLOW"))  # type: ignore[arg-type]  # no ImageFile
    yield made
    Image.ID.remove("SLOW")
    del Image.OPEN["SLOW"]


def test_two_threads_that_decode_leave_the_warnings_of_all_others_as_they_were(slow: Slow) -> None:
    failed: list[BaseException] = []

    def work(name: bytes) -> None:
        try:
            assert decode(name).shape == (3, 2, 3)
        except BaseException as error:  # noqa: BLE001 - told below, by the thread of the test
            failed.append(error)

    decode(PNG)  # the one filter that stays is there from the first one on
    before = list(warnings.filters)
    threads = [threading.Thread(target=work, args=(name,)) for name in slow.begun]
    for thread, begun in zip(threads, slow.begun.values(), strict=True):
        thread.start()
        assert begun.wait(60)
    with pytest.raises(UserWarning, match="of this thread"):  # an error by the filters of this suite
        warnings.warn("of this thread", stacklevel=1)
    for thread, go_on in zip(threads, slow.go_on.values(), strict=True):
        go_on.set()
        thread.join()
    assert warnings.filters == before
    assert not failed, failed


def test_nothing_that_the_user_set_makes_a_warning_of_the_decoder_an_error(slow: Slow) -> None:
    for go_on in slow.go_on.values():
        go_on.set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(b"SLOW0").shape == (3, 2, 3)
        with pytest.raises(UserWarning, match="mine"):
            warnings.warn("mine", stacklevel=1)


def test_silence_within_silence_ends_with_the_outer_one() -> None:
    with no_warnings():
        with no_warnings():
            warnings.warn("inner", stacklevel=1)
        warnings.warn("outer", stacklevel=1)
    with pytest.raises(UserWarning, match="after"):
        warnings.warn("after", stacklevel=1)


TIMM = logging.getLogger("timm.models._builder")


def test_what_timm_logs_is_dropped_in_the_call_and_heard_after_it_and_in_other_threads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def log(text: str) -> None:
        TIMM.warning(text)

    other = threading.Thread(target=log, args=("of another thread",))
    with no_log("timm"):
        log("dropped")
        TIMM.error("an error")
        with no_log("timm"):
            log("dropped as well")
        log("still dropped")
        other.start()
        other.join()
    log("afterwards")
    assert caplog.messages == ["an error", "of another thread", "afterwards"]
    assert TIMM.filters == []


def test_a_model_is_made_in_silence_and_timm_is_as_it_was_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    @timm.models.register_model
    def talkative(**options: object) -> nn.Module:
        TIMM.warning("said while the model is made")
        return nn.Linear(2, 3)

    level = logging.getLogger("timm").level
    assert create("talkative", weights=None, size=32, kwargs={}, pretrained=False).out_features == 3
    assert logging.getLogger("timm").level == level
    TIMM.warning("heard")
    assert caplog.messages == ["heard"]

"""A slow `reinforce generate` for tests that kill it: the real thing, with a pause in every call of the teacher.

Usage, at the root: python -m tests.generation.generator IMAGES WEIGHTS OUT PAUSE [FILE_SIZE_LIMIT].
Prints "ready" when the imports are done.
"""

from __future__ import annotations

import resource
import signal
import sys
import time
from pathlib import Path

import torch

from reinforce.errors import ReinforceError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from tests.conftest import CLASSES, SIZE, TEACHER, make_settings


def main() -> None:
    images, weights, out, pause = sys.argv[1:5]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background has it ignored
    source = ImageFolder.open(images)
    teacher = load_teacher(
        [TeacherSpec(TEACHER, Path(weights))],
        size=SIZE,
        class_names=list(CLASSES),
        class_map=None,
        device=torch.device("cpu"),
        precision="fp32",
    )
    teacher.register_forward_pre_hook(lambda *_: time.sleep(float(pause)))
    workers = 1
    if len(sys.argv) > 5:
        workers = 0  # the limit would also hold for the shared memory that workers send views through
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[5]), resource.RLIM_INFINITY))
    print("ready", flush=True)
    try:
        generate(source, teacher, make_settings(source, teacher, block_size=3, views=6), Path(out), Execution(8, workers))
    except ReinforceError as error:
        print(f"error: {error}", flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

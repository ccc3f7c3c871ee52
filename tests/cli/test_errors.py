"""Errors: wrong usage and bad data are named, with what is expected and an exit code, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reinforce.errors import ReinforceError
from tests.cli.conftest import Cli, check
from tests.conftest import CLASSES, SIZE, TEACHER, run_cli

pytestmark = pytest.mark.unit

GENERATE = (
    f"generate --data {{images}} --teacher {TEACHER} --teacher-weights {{weights}} --size {SIZE} --out {{out}} --device cpu"
)
TRAIN = "train --student test_resnet --data {images} --labels {store} --out {out} --device cpu"
SHOW = "show {store} --data {images}"
BENCH = "bench modes --data {images} --labels {store} --out {out}"

WRONG_USAGE = [
    # what is not there, and what there is
    ("generate --data {images} --teacher test_nothing --out {out}", "timm has no model 'test_nothing'", "timm.list_models()"),
    ("generate --data {images} --teacher test_resnett --out {out}", "timm has no model 'test_resnett'", "one of test_resnet"),
    (f"{GENERATE} --policy rcc", "no policy 'rcc'", "none, whole, rrc, rrc-ra, usi"),
    (f"{GENERATE} --policy rrc:size=3", "has no option 'size=3'", "scale="),
    (f"{GENERATE} --policy rrc:scale=0.5-3", "Policy 'rrc:scale=0.5-3' is not valid", "0-1"),
    (f"{GENERATE} --codec zip", "no codec 'zip'", "topk:K"),
    (f"{GENERATE} --codec topk:0", "Codec 'topk:0' is not valid", "from 1 to 1000"),
    (f"{GENERATE} --teacher-kwargs wings", "--teacher-kwargs 'wings' is not valid", "key=value"),
    (f"{GENERATE} --teacher-kwargs a=1 wings", "--teacher-kwargs 'wings' is not valid", "key=value"),
    (f"{GENERATE} --teacher-kwargs a=[1]", "--teacher-kwargs 'a=[1]' is not valid", "a number, true, false, null or text"),
    (f"{GENERATE} --teacher-kwargs wings=2", "does not take these arguments", "wings"),
    (f"{GENERATE} --teacher-kwargs mean=a", "--teacher-kwargs mean=a is not valid", "three with slashes"),
    (f"{GENERATE} --teacher-weights {{weights}}", "1 teacher and 2 weights files", "one file per teacher"),
    (f"{GENERATE} --class-map {{root}}/nothing.json", "class map", "a JSON list of numbers, or auto"),
    (f"{GENERATE} --class-map {{root}}/classes.json", "does not fit the data set", "a JSON list of 3 numbers"),
    (f"{GENERATE} --class-map auto", "does not know all class folders", "WordNet ids"),
    (f"{GENERATE} --device tpu", "", "auto, cpu, cuda or cuda:0"),
    (f"{GENERATE} --device meta", "Device 'meta' is not supported", "auto, cpu, cuda or cuda:0"),
    (f"{GENERATE} --views 0", "--views", "greater than or equal to 1"),
    (f"{GENERATE} --size 3", "--size", "greater than or equal to 8"),
    (f"{GENERATE} --limit 0", "--limit", "greater than or equal to 1"),
    (f"{GENERATE} --precision fp8", "fp8", "fp32"),
    (f"{GENERATE} --wings", "No such option", "--wings"),
    ("generate --data {images} --out {out}", "Missing option", "--teacher"),
    (
        "train --student test_nothing --data {images} --labels {store} --out {out}",
        "no model 'test_nothing'",
        "timm.list_models()",
    ),
    ("train --student test_resnet --data {images} --out {out}", "--mode replay needs stored labels", "--labels DIR"),
    ("train --student test_resnet --data {images} --out {out} --mode online", "--mode online needs a teacher", "--labels DIR"),
    (f"{TRAIN} --mode sideways", "sideways", "replay"),
    (f"{TRAIN} --recipe nothing", "no recipe 'nothing'", "kd"),
    (f"{TRAIN} --recipe {{root}}/bad.toml", "epoch: Extra inputs", "epochs"),
    (f"{TRAIN} --lr 0", "lr: Input should be greater than 0", "kd"),
    (f"{TRAIN} --lr fast", "'--lr'", "a valid number"),
    (f"{TRAIN} --epochs 0", "--epochs", "greater than or equal to 1"),
    (f"{TRAIN} --opt nonsense", "timm cannot make this optimiser", "nonsense"),
    (f"{TRAIN} --sched nonsense", "timm cannot make this schedule", "nonsense"),
    (f"{TRAIN} --amp-dtype float8", "--amp-dtype", "'float16', 'bfloat16'"),
    (f"{TRAIN} --policy rrc", "--policy is given beside --labels", "one of them"),
    (f"{TRAIN} --sizes 64,x", "--sizes 64,x", "--sizes 96,128"),
    (f"{TRAIN} --views 6", "6 views are asked for", "1 to 5"),
    (f"{TRAIN} --student-kwargs wings=2", "does not take these arguments", "wings"),
    (f"{TRAIN} --student-kwargs in_chans=1", "makes no logits of views of 32x32", "--student-kwargs and --size"),
    (f"{TRAIN} --student-kwargs features_only=true", "makes no logits", "found: a list"),
    (f"{TRAIN} --student-kwargs wings", "--student-kwargs 'wings' is not valid", "key=value"),
    (
        f"{TRAIN} --mode online --teacher a --teacher b --teacher-weights {{weights}}",
        "2 teachers and 1 weights",
        "one file per",
    ),
    ("inspect", "Missing argument", "DIR"),
    ("inspect {store} --data {images}", "No such option", "--data"),
    ("verify", "Missing argument", "DIR"),
    ("verify {store} --views 3", "need the images", "add --data SOURCE"),
    ("verify {store} --teacher", "need the images", "add --data SOURCE"),
    (
        "verify {store} --data {images} --teacher-weights {weights} --teacher-weights {weights}",
        "2 weights files",
        "one file per teacher",
    ),
    (f"{SHOW} --sample 7 --out {{root}}/a.png", "no sample '7'", "--sample apple/0"),
    (f"{SHOW} --sample apple/001 --out {{root}}/a.jpg", "a.jpg is no PNG file", "--out NAME.png"),
    (f"{SHOW} --sample apple/001", "Missing option", "--out"),
    ("demo --seeds 0", "--seeds", "greater than or equal to 1"),
    ("bench sideways --data {images} --labels {store} --out {out}", "sideways", "No such command"),
    (f"{BENCH} --student test_nothing", "no model 'test_nothing'", "timm.list_models()"),
    ("nothing", "No such command", "nothing"),
    ("--nothing", "No such option", "--nothing"),
]
INSIDE = [
    (GENERATE.replace("{out}", "{images}/new"), "--data"),
    (TRAIN.replace("{out}", "{images}/new"), "--data"),
    (TRAIN.replace("{out}", "{store}/new"), "--labels"),
    (f"{TRAIN} --val {{val}}".replace("{out}", "{val}/new"), "--val"),
    (f"{TRAIN} --val v2={{val}}".replace("{out}", "{val}/new"), "--val"),
    ("export {store} --format ml-dr --out {store}/new", "the data set"),
    ("pack {store} --data {images} --out {store}/new", "the data set"),
    ("import relabel {root} --data {images} --num-classes 3 --out {root}/new", "the labels"),
]
"""What is read, and an output in it."""
WRONG_USAGE += [(line, f"--out is inside of {what}", "choose another --out") for line, what in INSIDE]
WRONG_USAGE += [(GENERATE.replace("{out}", "{images}"), "--out is inside of --data", "choose another --out")]

BAD_DATA = [
    (GENERATE.replace("{images}", "{root}/nowhere"), "no image folder at", "check --data"),
    (GENERATE.replace("{images}", "{root}/empty"), "no images below", ".jpg"),
    (GENERATE.replace("{images}", "{root}/loose"), "no images below", ".jpg"),
    (GENERATE.replace("{weights}", "{root}/nothing.safetensors"), "no weights file", "check the path"),
    (GENERATE.replace("{weights}", "{root}/pickle.pt"), "cannot be read as weights", "never loaded"),
    (GENERATE.replace("{weights}", "{root}/bad.toml"), "cannot be read as weights", "safetensors"),
    (GENERATE.replace(TEACHER, "test_vit"), "do not fit the model", "another model"),
    (f"{GENERATE} --teacher-kwargs num_classes=7", "do not fit the model", "num_classes"),
    (GENERATE.replace("{out}", "{val}"), "holds other files", "choose another --out"),
    (GENERATE.replace("{out}", "{root}/bad.toml"), "cannot be written", "bad.toml"),
    (TRAIN.replace("{images}", "{root}/nowhere"), "no image folder at", "check --data"),
    (TRAIN.replace("{store}", "{root}/nowhere"), "is not a reinforced dataset", "reinforce generate"),
    (TRAIN.replace("{images}", "{val}"), "18 of 24 samples with labels are not in", "check --data"),
    (f"{TRAIN} --val {{root}}/empty", "no images below", ".jpg"),
    ("inspect {root}/nowhere", "is not a reinforced dataset", "no such folder"),
    ("inspect {images}", "is not a reinforced dataset", "no manifest.json"),
    ("verify {root}/nowhere", "is not a reinforced dataset", "no such folder"),
    ("verify {store} --data {root}/nowhere", "no image folder at", "check --data"),
    ("show {root}/nowhere --data {images} --sample apple/001 --out {root}/a.png", "is not a reinforced dataset", "no such"),
    ("show {store} --data {root}/nowhere --sample apple/001 --out {root}/a.png", "no image folder at", "check --data"),
    (BENCH.replace("{images}", "{root}/nowhere"), "no image folder at", "check --data"),
]


@pytest.mark.process
@pytest.mark.parametrize(("line", "found", "expected"), WRONG_USAGE, ids=[line for line, *_ in WRONG_USAGE])
def test_wrong_usage_says_what_was_found_and_what_is_expected(
    cli: Cli, places: dict[str, str], line: str, found: str, expected: str
) -> None:
    check(cli(*line.format(**places).split()), 2, found, expected)
    assert not Path(places["out"]).exists()
    assert not any(Path(places[name], "new").exists() for name in ("images", "store", "val", "root"))


@pytest.mark.parametrize(("line", "found", "help_"), BAD_DATA, ids=[line for line, *_ in BAD_DATA])
def test_bad_data_says_what_is_wrong_and_what_to_do(
    cli: Cli, places: dict[str, str], line: str, found: str, help_: str
) -> None:
    check(cli(*line.format(**places).split()), 1, found, help_)
    assert not Path(places["out"]).exists()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (TRAIN.replace("{out}", "{root}/bad.toml"), "bad.toml"),
        (f"{SHOW} --sample apple/001 --out {{root}}/nowhere/a.png", "nowhere"),
        (f"{SHOW} --sample apple/001 --out {{root}}/folder.png", "folder.png"),
    ],
)
def test_an_output_that_cannot_be_written_is_named(cli: Cli, places: dict[str, str], line: str, found: str) -> None:
    (Path(places["root"]) / "folder.png").mkdir()
    said = cli(*line.format(**places).split())
    assert said.code in (1, 2)
    assert found in said.err
    assert said.out == ""


WITH_JSON = [
    line for line, *_ in WRONG_USAGE + BAD_DATA if line.split()[0] in ("generate", "train", "inspect", "verify", "bench")
]


@pytest.mark.process
@pytest.mark.parametrize("line", WITH_JSON)
def test_an_error_leaves_stdout_empty_with_json_too(cli: Cli, places: dict[str, str], line: str) -> None:
    said = cli(*line.format(**places).split(), "--json")
    assert said.code in (1, 2)
    assert said.out == ""
    assert said.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("line", [GENERATE, TRAIN, BENCH])
def test_a_cuda_device_where_there_is_none_is_refused(cli: Cli, places: dict[str, str], line: str) -> None:
    arguments = line.replace(" --device cpu", "").format(**places).split()
    check(cli(*arguments, "--device", "cuda"), 2, "Device 'cuda' is not there", "0 CUDA devices", "--device auto")


@pytest.mark.process
def test_an_error_of_a_fresh_process_is_as_short_as_that(tmp_path: Path) -> None:
    done = run_cli("generate", "--data", tmp_path / "nowhere", "--teacher", TEACHER, "--out", tmp_path / "out", "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: There is no image folder at ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_interrupted_command_says_so_with_its_exit_code(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, places: dict[str, str]
) -> None:
    import reinforce.verification.summary

    def interrupt(root: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reinforce.verification.summary, "summarise", interrupt)
    assert cli("inspect", places["store"]).code == 130


def test_every_error_ends_as_its_exit_code(cli: Cli, monkeypatch: pytest.MonkeyPatch, places: dict[str, str]) -> None:
    import reinforce.verification.summary

    def kinds(kind: type[ReinforceError]) -> list[type[ReinforceError]]:
        return [kind, *(k for child in kind.__subclasses__() for k in kinds(child))]

    for kind in kinds(ReinforceError):

        def fail(root: Path, kind: type[ReinforceError] = kind) -> None:
            raise kind("It went wrong.", found=len(CLASSES), expected=4, cause="bad luck", fix="try again")

        monkeypatch.setattr(reinforce.verification.summary, "summarise", fail)
        said = cli("inspect", places["store"], "--json")
        assert said.code == kind.exit_code
        assert said.out == ""
        assert said.err.splitlines() == [
            "error: It went wrong.",
            "  found:        3",
            "  expected:     4",
            "  likely cause: bad luck",
            "  next:         try again",
        ]

"""The command line: help at once, wrong usage named and never a traceback, JSON alone on stdout."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from reinforce import __version__
from reinforce.cli import main, progress
from reinforce.cli.main import spread
from reinforce.cli.progress import Progress
from reinforce.errors import ReinforceError
from tests.conftest import CLASSES, SIZE, TEACHER, run_cli, write_folder

_BY_HAND = ("generate", "train", "plan", "inspect", "verify", "show", "demo", "bench")
COMMANDS = (*_BY_HAND, "pack", "publish", "pull", "import", "export", "list")


@dataclass
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch, capsys) -> Callable[..., Said]:
    """Run the command in this process: what a fresh one would take five seconds for. An uncaught exception fails the test."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["reinforce", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "220")
        monkeypatch.setenv("NO_COLOR", "1")
        capsys.readouterr()
        code: object = 0
        try:
            main.main()
        except SystemExit as done:
            code = done.code or 0
        captured = capsys.readouterr()
        assert isinstance(code, int)
        assert "Traceback" not in captured.err
        return Said(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("val") / "val", per_class=2, first=200)


# Help


def test_help_lists_every_command(cli) -> None:
    said = cli("--help")
    assert said.code == 0
    for name in COMMANDS:
        assert f" {name} " in said.out
    assert cli("-h").out == said.out


def test_every_file_of_the_command_line_is_a_registered_command() -> None:
    files = {p.stem.rstrip("_") for p in Path(main.__file__).parent.glob("[a-z]*.py")} - {"main", "progress", "job"}
    registered = {c.name for c in main.app.registered_commands} | {f"bench_{c.name}" for c in main.bench.registered_commands}
    assert files == registered
    assert {name.partition("_")[0] for name in files} == set(COMMANDS)


def test_help_loads_none_of_the_heavy_packages() -> None:
    program = (
        "import sys; sys.argv = ['reinforce', '--help']\n"
        "from reinforce.cli import main\n"
        "try: main.main()\n"
        "except SystemExit as done: assert not done.code\n"
        "heavy = {'torch', 'timm', 'zarr', 'torchvision', 'pyarrow', 'numpy', 'PIL', 'simplejpeg', 'pydantic'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_for_itself_and_its_options(cli, name) -> None:
    said = cli(*name.split(), "--help")
    assert said.code == 0
    assert said.err == ""
    assert "Usage: " in said.out
    assert "--help" in said.out


PROMISED = {
    "generate": "data teacher out views policy size teacher-weights teacher-kwargs class-map codec seed batch-size workers"
    " device limit json",
    "train": "student data labels out val recipe epochs mode batch-size lr size seed resume student-kwargs json",
    "inspect": "json",
    "verify": "data views teacher json",
    "show": "data sample out",
    "demo": "out json",
    "bench modes": "data labels out json",
    "bench codec": "logits codec views top1 json",
    "bench loader": "data policy rounds json",
    "bench generate": "data teacher rounds json",
    "bench step": "student teacher rounds json",
    "bench store": "size plot json",
    "plan": "data teacher views epochs gpu-hours gpu-rate json",
}


@pytest.mark.parametrize("name", PROMISED)
def test_the_promised_options_exist(cli, name) -> None:
    said = cli(*name.split(), "--help")
    for option in PROMISED[name].split():
        assert f"--{option} " in said.out, option


def test_version_is_printed(cli) -> None:
    assert cli("--version").out.strip() == __version__


def test_no_arguments_print_help(cli) -> None:
    said = cli()
    assert said.code == 2
    assert "Usage: " in said.out + said.err


# Many values after one option


@pytest.mark.parametrize(
    ("given", "spelled_out"),
    [
        ("", ""),
        ("train --lr 1 --teacher-kwargs a=1 b=2 --seed 3", "train --lr 1 --teacher-kwargs a=1 --teacher-kwargs b=2 --seed 3"),
        ("generate --teacher-kwargs a=1 b=2 c=3", "generate --teacher-kwargs a=1 --teacher-kwargs b=2 --teacher-kwargs c=3"),
        (
            "--student-kwargs a=1 b=2 --teacher-kwargs c=3 d=4",
            "--student-kwargs a=1 --student-kwargs b=2 --teacher-kwargs c=3 --teacher-kwargs d=4",
        ),
        ("--teacher-kwargs a=1 --teacher-kwargs b=2", "--teacher-kwargs a=1 --teacher-kwargs b=2"),
        ("--teacher-kwargs a=-1 b=2", "--teacher-kwargs a=-1 --teacher-kwargs b=2"),
        ("inspect DIR --json", "inspect DIR --json"),
        ("--teacher x y", "--teacher x y"),
    ],
)
def test_options_of_key_and_value_take_several(given, spelled_out) -> None:
    assert spread(given.split()) == spelled_out.split()


# Wrong usage and bad data


@pytest.fixture
def places(images, store, weights, val, tmp_path) -> dict[str, str]:
    """Words that the command lines below may use in braces."""
    root = tmp_path / "places"
    root.mkdir()
    (root / "empty").mkdir()
    (root / "loose").mkdir()
    (root / "loose" / "notes.txt").write_text("no image")
    (root / "classes.json").write_text('["apple"]')
    (root / "bad.toml").write_text("epoch = 3")
    (root / "pickle.pt").write_bytes(b"\x80\x04N.")
    named = {"images": images, "store": store, "weights": weights, "val": val, "root": root, "out": root / "out"}
    return {k: str(v) for k, v in named.items()}


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
    (f"{GENERATE} --teacher-weights {{weights}}", "1 teachers and 2 weights files", "one file per teacher"),
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
    (f"{TRAIN} --opt nonsense", "timm does not know this optimiser", "nonsense"),
    (f"{TRAIN} --sched nonsense", "timm does not know this", "nonsense"),
    (f"{TRAIN} --amp-dtype float8", "amp_dtype", "'float16' or 'bfloat16'"),
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
        "one per teacher",
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

BAD_DATA = [
    (GENERATE.replace("{images}", "{root}/nowhere"), "no image folder at", "check --data"),
    (GENERATE.replace("{images}", "{root}/empty"), "no images below", ".jpg"),
    (GENERATE.replace("{images}", "{root}/loose"), "no images below", ".jpg"),
    (GENERATE.replace("{weights}", "{root}/nothing.safetensors"), "no weights file", "check the path"),
    (GENERATE.replace("{weights}", "{root}/pickle.pt"), "cannot be read as weights", "never loaded"),
    (GENERATE.replace("{weights}", "{root}/bad.toml"), "cannot be read as weights", "safetensors"),
    (GENERATE.replace(TEACHER, "test_vit"), "do not fit the model", "another model"),
    (f"{GENERATE} --teacher-kwargs num_classes=7", "do not fit the model", "num_classes"),
    (GENERATE.replace("{out}", "{images}"), "holds other files", "choose another --out"),
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


def check(said: Said, code: int, *texts: str) -> None:
    flat = " ".join(said.err.split())  # long lines are wrapped in boxes
    assert said.code == code, said.err
    for text in texts:
        assert text in flat
    assert said.out == ""


@pytest.mark.parametrize(("line", "found", "expected"), WRONG_USAGE, ids=[line for line, *_ in WRONG_USAGE])
def test_wrong_usage_says_what_was_found_and_what_is_expected(cli, places, line, found, expected) -> None:
    check(cli(*line.format(**places).split()), 2, found, expected)
    assert not Path(places["out"]).exists()


@pytest.mark.parametrize(("line", "found", "help_"), BAD_DATA, ids=[line for line, *_ in BAD_DATA])
def test_bad_data_says_what_is_wrong_and_what_to_do(cli, places, line, found, help_) -> None:
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
def test_an_output_that_cannot_be_written_is_named(cli, places, line, found) -> None:
    (Path(places["root"]) / "folder.png").mkdir()
    said = cli(*line.format(**places).split())
    assert said.code in (1, 2)
    assert found in said.err
    assert said.out == ""


WITH_JSON = [
    line for line, *_ in WRONG_USAGE + BAD_DATA if line.split()[0] in ("generate", "train", "inspect", "verify", "bench")
]


@pytest.mark.parametrize("line", WITH_JSON)
def test_an_error_leaves_stdout_empty_with_json_too(cli, places, line) -> None:
    said = cli(*line.format(**places).split(), "--json")
    assert said.code in (1, 2)
    assert said.out == ""
    assert said.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("line", [GENERATE, TRAIN, BENCH])
def test_a_cuda_device_where_there_is_none_is_refused(cli, places, line) -> None:
    arguments = line.replace(" --device cpu", "").format(**places).split()
    check(cli(*arguments, "--device", "cuda"), 2, "Device 'cuda' is not there", "0 CUDA devices", "--device auto")


def test_an_error_of_a_fresh_process_is_as_short_as_that(tmp_path) -> None:
    done = run_cli("generate", "--data", tmp_path / "nowhere", "--teacher", TEACHER, "--out", tmp_path / "out", "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: There is no image folder at ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_interrupted_command_says_so_with_its_exit_code(cli, monkeypatch, places) -> None:
    import reinforce.verification.summary

    def interrupt(root: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reinforce.verification.summary, "summarise", interrupt)
    assert cli("inspect", places["store"]).code == 130


# Done


def test_generate_inspect_verify_and_train_speak_json_alone_on_stdout(cli, places, tmp_path) -> None:
    labels = tmp_path / "labels"
    common = ["--device", "cpu", "--workers", 0, "--json"]
    line = [
        "generate",
        "--data",
        places["images"],
        "--teacher",
        TEACHER,
        "--teacher-weights",
        places["weights"],
        "--out",
        labels,
    ]
    said = cli(*line, "--size", SIZE, "--views", 2, "--codec", "topk:2", "--limit", 9, *common)
    assert said.code == 0
    made = json.loads(said.out)
    assert (made["complete"], made["counts"]["ok"], made["views"], made["size"]) == (True, 9, 2, SIZE)
    assert said.err == ""

    said = cli("inspect", labels, "--json")
    assert json.loads(said.out) == made

    said = cli("verify", labels, "--data", places["images"], "--views", 3, "--teacher-weights", places["weights"], *common)
    checks = json.loads(said.out)
    assert said.code == 0
    assert checks["ok"]
    assert {"name", "total", "failed", "failures", "note"} <= set(checks["checks"][0])

    train = ["train", "--student", "test_resnet", "--data", places["images"], "--labels", labels, "--val", places["val"]]
    said = cli(*train, "--out", tmp_path / "run", "--epochs", 2, "--batch-size", 5, *common)
    assert said.code == 0
    assert said.err == ""
    summary = json.loads(said.out)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["samples"] == 9
    assert summary["recipe"]["batch_size"] == 5

    said = cli(*train, "--out", tmp_path / "run", "--epochs", 2, "--batch-size", 5, *common)
    check(said, 2, "already holds a run", "--resume")

    record = next(labels.glob("blocks/*/records/c/0"))
    record.write_bytes(record.read_bytes()[:-1] + b"\xff")
    said = cli("verify", labels, "--json")
    assert said.code == 1
    assert not json.loads(said.out)["ok"]


def test_the_same_commands_speak_to_people(cli, places, tmp_path) -> None:
    common = ["--device", "cpu", "--workers", 0]
    line = ["generate", "--data", places["images"], "--teacher", TEACHER, "--teacher-weights", places["weights"]]
    said = cli(*line, "--out", tmp_path / "labels", "--size", SIZE, "--views", 2, "--codec", "topk:2", *common)
    assert "24 samples x 2 views, 0 missing, 0 corrupt images" in said.out
    assert "the teacher's top class is the hard label in" in said.out
    assert "generate: 24/24 images" in said.err

    said = cli("inspect", tmp_path / "labels")
    for text in (TEACHER, "rrc-ra", "2 per sample, 32x32 pixels", "topk", "3, with hard labels", "yes: 1 blocks", "bytes/view"):
        assert text in said.out

    said = cli("verify", tmp_path / "labels", "--data", places["images"], "--workers", 0)
    assert said.code == 0
    assert said.out.startswith("ok ")
    assert "FAILED" not in said.out

    train = ["train", "--student", "test_resnet", "--data", places["images"], "--labels", tmp_path / "labels"]
    said = cli(*train, "--out", tmp_path / "run", "--epochs", 2, "--batch-size", 8, *common)
    assert said.code == 0
    assert re.search(r"^epoch 0  lr \S+  loss \S+  kd_loss \S+  seconds \S+  images_per_second \S+$", said.out, re.MULTILINE)
    assert "best epoch 1: loss" in said.out
    assert "epoch 1: 3/3 steps" in said.err


def test_a_teachers_arguments_are_spread_and_recorded(cli, places, tmp_path) -> None:
    line = ["generate", "--data", places["images"], "--teacher", TEACHER, "--teacher-weights", places["weights"]]
    line += [
        "--out",
        tmp_path / "labels",
        "--size",
        SIZE,
        "--views",
        1,
        "--limit",
        3,
        "--workers",
        0,
        "--device",
        "cpu",
        "--json",
    ]
    said = cli(*line, "--teacher-kwargs", "mean=0.1/0.2/0.3", "drop_rate=0.25", "std=0.5")
    teacher = json.loads(said.out)["teachers"][0]
    assert teacher["kwargs"] == {"mean": "0.1/0.2/0.3", "drop_rate": 0.25, "std": 0.5}
    assert (teacher["mean"], teacher["std"]) == ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    again = cli(*line, "--teacher-kwargs", "mean=0.1/0.2/0.3", "drop_rate=0.5", "std=0.5")
    check(again, 2, "was made with another", "drop_rate", "0.25", "0.5")


def test_bench_compares_the_modes_in_json_and_as_a_table(cli, places, tmp_path) -> None:
    line = ["bench", "modes", "--data", places["images"], "--labels", places["store"], "--val", places["val"]]
    line += ["--student", "test_resnet", "--teacher-weights", places["weights"], "--epochs", 1, "--batch-size", 8]
    line += ["--workers", 0, "--device", "cpu"]
    said = cli(*line, "--seeds", 2, "--out", tmp_path / "json", "--json")
    assert said.code == 0
    result = json.loads(said.out)
    assert [row["mode"] for row in result["rows"]] == ["replay", "plain", "online"]
    assert result["conditions"]["seeds"] == 2
    assert result["rows"][0]["relative"] == 1.0
    assert all(row["top1"]["low"] <= row["top1"]["value"] <= row["top1"]["high"] for row in result["rows"])
    assert "replay, seed 0:" in said.err
    said = cli(*line, "--seeds", 1, "--out", tmp_path / "table")
    assert said.out.startswith("| mode | img/s | top-1 % | NLL | ECE % |\n|---|")
    assert "img/s against replay: replay 1.00, plain" in said.out


# A picture of the views


@pytest.mark.parametrize(("views", "columns", "rows"), [(16, 3, 2), (4, 2, 2), (1, 1, 1)])
def test_show_writes_a_picture_with_a_cell_per_view(cli, places, tmp_path, views, columns, rows) -> None:
    out = tmp_path / "sheet.png"
    said = cli("show", places["store"], "--data", places["images"], "--sample", "bread/002", "--out", out, "--views", views)
    side, gap, line = 4 * SIZE, 8, 15  # views are shown at 128 pixels at least; a caption and three classes
    width, height = columns * (side + gap) + gap, rows * (side + 4 * line + gap) + gap
    assert said.code == 0
    assert said.out == f"{out}: {width}x{height} pixels\n"
    with Image.open(out) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (width, height))


def test_show_shows_the_pixels_that_the_teacher_saw(cli, places, tmp_path) -> None:
    from reinforce import ReinforcedDataset

    out = tmp_path / "sheet.png"
    cli("show", places["store"], "--data", places["images"], "--sample", "cheese/003", "--out", out, "--top", 1)
    dataset = ReinforcedDataset(places["store"], places["images"])
    index = dataset.source.keys.index("cheese/003")
    sheet = torch.frombuffer(bytearray(Image.open(out).tobytes()), dtype=torch.uint8)
    with Image.open(out) as image:
        sheet = sheet.view(image.height, image.width, 3).permute(2, 0, 1)
    side = 4 * SIZE
    for view, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        y, x = 8 + row * (side + 2 * 15 + 8), 8 + column * (side + 8)
        assert torch.equal(sheet[:, y : y + side : 4, x : x + side : 4], dataset.replay(index, view))


# Progress


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """Time that a test sets by hand."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_progress_in_a_log_is_a_line_now_and_then_with_rate_and_time_left(monkeypatch, clock) -> None:
    stream = Stream(terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("generate", "images")
    for done in range(0, 1001):
        clock.seconds = 100.0 + done / 40
        shown(done, 1000)
    assert stream.getvalue().splitlines() == [
        "generate: 400/1000 images, 40.0/s, 0:15 left",
        "generate: 800/1000 images, 40.0/s, 0:05 left",
        "generate: 1000/1000 images, 40.0/s",
    ]


def test_progress_does_not_count_what_was_already_there_as_fast(monkeypatch, clock) -> None:
    stream = Stream(terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("generate", "images")
    clock.seconds = 130.0  # loading took its time
    shown(5000, 10000)
    stream.truncate(0)
    clock.seconds = 150.0
    shown(5020, 10000)
    assert "5020/10000 images, 1.0/s, 1:23:00 left" in stream.getvalue()


def test_progress_on_a_terminal_rewrites_its_line(monkeypatch, clock) -> None:
    stream = Stream(terminal=True)
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("verify", "files")
    for done in range(5):
        clock.seconds += 1.0
        shown(done, 4)
    text = stream.getvalue()
    assert text.count("\r\033[K") == 5
    assert text.count("\n") == 1
    assert text.endswith("verify: 4/4 files, 1.0/s\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_quiet_when_told(monkeypatch, clock, terminal) -> None:
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("generate", "images", quiet=True)
    for done in range(100):
        clock.seconds += 60.0
        shown(done, 99)
    assert stream.getvalue() == ""


def test_every_error_ends_as_its_exit_code(cli, monkeypatch, places) -> None:
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


@pytest.mark.parametrize(("what", "words"), [
    ("recipes", ["usi", "meal-v2", "cosub", "self", "kd"]), ("policies", ["usi", "tinyvit", "imagenet-plus-m-r", "none"]),
    ("codecs", ["sqrt-tiny", "sqrt ", "topk:K"]), ("students", ["vit_s", "tresnet_m"]),
])  # fmt: skip
def test_what_there_is_to_choose_from_is_listed_with_a_line_each(cli, what, words) -> None:
    said = cli("list", what)
    lines = said.out.splitlines()
    assert said.code == 0
    assert said.err.strip()
    assert all(any(line.startswith(word) for line in lines) for word in words)
    assert all(len(line.split("  ", 1)) == 2 and len(line) < 150 for line in lines)
    assert set(json.loads(cli("list", what, "--json").out)) == {line.split("  ")[0] for line in lines}


def test_a_list_of_something_else_is_wrong_usage(cli) -> None:
    assert cli("list", "teachers").code == 2

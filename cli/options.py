"""Options that several commands share, each defined once: its type, bounds, help, and the panel of --help that lists it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

DATA, TEACHER, VIEWS, LABELS = "Data", "Teacher", "Views", "Labels"
STUDENT, RECIPE, RUNNING, OUTPUT = "Student", "Recipe", "Running", "Output"

SOURCES = "a folder, shards-{000..127}.tar, *.parquet, an .npz, torchvision:NAME, or a URL"
"""What `--data` takes, in words."""

Data = Annotated[str, Option(help=f"Images: {SOURCES}.", rich_help_panel=DATA)]
Limit = Annotated[
    int | None, Option(min=1, help="Use only this many samples, spread evenly over the index.", rich_help_panel=DATA)
]
Download = Annotated[
    bool, Option("--download", help="Let torchvision download a data set that is missing.", rich_help_panel=DATA)
]

Teachers = Annotated[
    list[str],
    Option(
        help="timm model, short name, hf-hub:, local-dir:, py:FILE.py:function, pt2:FILE or onnx:FILE; may be repeated.",
        rich_help_panel=TEACHER,
    ),
]
TeacherWeights = Annotated[
    list[str] | None,
    Option(
        help="Local state dict (safetensors or torch), one per teacher, or N:FILE for the Nth alone; default: timm's own.",
        rich_help_panel=TEACHER,
    ),
]
TeacherKwargs = Annotated[
    list[str] | None,
    Option(
        help="key=value for the model, or N:key=value for the Nth teacher alone; mean and std override the model's.",
        rich_help_panel=TEACHER,
    ),
]
ClassMap = Annotated[
    str | None,
    Option(help="Teacher class of each class folder: a JSON list, or auto for WordNet ids.", rich_help_panel=TEACHER),
]
Precision = Annotated[Literal["fp32", "bf16"], Option(help="Arithmetic of the teacher.", rich_help_panel=TEACHER)]

Views = Annotated[int | None, Option(min=1, max=65535, help="Views per image; default 10, for maps 1.", rich_help_panel=VIEWS)]
Policy = Annotated[
    str | None,
    Option(
        help="Name, with options: rrc-ra:scale=0.25-1,m=9; or a TOML file. Default rrc-ra, for maps whole.",
        rich_help_panel=VIEWS,
    ),
]
Size = Annotated[int, Option(min=8, max=4096, help="Height and width of a view in pixels.", rich_help_panel=VIEWS)]
Seed = Annotated[int, Option(min=0, help="Seed of the views.", rich_help_panel=VIEWS)]

LabelKind = Annotated[
    str,
    Option(
        help="views: a soft label per view; map: scores at every position of the whole image, for any crop.",
        rich_help_panel=LABELS,
    ),
]
Codec = Annotated[
    str | None,
    Option(
        help="sqrt-tiny, sqrt, sqrt-high, sqrt-near, sqrt:DELTA, topk:K, or map:K. Default sqrt, for maps map:10.",
        rich_help_panel=LABELS,
    ),
]
StripeViews = Annotated[
    int,
    Option(min=1, max=65535, help="Views per stripe: these are stored, checked and pulled together.", rich_help_panel=LABELS),
]
BlockSize = Annotated[
    int, Option(min=1, max=1 << 20, help="Samples per block, the unit of commit and resume.", rich_help_panel=LABELS)
]

Student = Annotated[str, Option(help="timm model or short name.", rich_help_panel=STUDENT)]
StudentKwargs = Annotated[list[str] | None, Option(help="key=value for timm.create_model.", rich_help_panel=STUDENT)]

TeacherBatch = Annotated[
    int | None,
    Option(min=1, help="Views per teacher batch; default: 64; on a GPU as many as fit, up to 512.", rich_help_panel=RUNNING),
]
Workers = Annotated[int | None, Option(min=0, help="Decoding processes; default: by device.", rich_help_panel=RUNNING)]
Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:i", rich_help_panel=RUNNING)]
Devices = Annotated[
    str, Option(help="auto (every GPU, or the CPU), cpu, cuda, or cuda:0,cuda:2; a process for each.", rich_help_panel=RUNNING)
]
Processes = Annotated[int, Option(min=1, max=256, help="Processes on each device.", rich_help_panel=RUNNING)]
Engine = Annotated[
    str, Option(help="local: this machine; ray: a Ray cluster, whose nodes all see --data and --out.", rich_help_panel=RUNNING)
]
RayAddress = Annotated[
    str | None,
    Option(
        help="Ray cluster: auto, HOST:PORT, or local for one of its own. Default: RAY_ADDRESS, or local.",
        rich_help_panel=RUNNING,
    ),
]
Rounds = Annotated[int, Option(min=1, help="How often each contender is run; they take turns.", rich_help_panel=RUNNING)]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]

Dataset = Annotated[Path, Argument(metavar="DIR", help="Reinforced dataset.")]
AnyDataset = Annotated[str, Argument(metavar="DIR|URL", help="Reinforced dataset, or URL of a published one.")]

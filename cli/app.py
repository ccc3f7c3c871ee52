"""App: all commands. Heavy imports happen inside the commands, so that --help answers at once."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import typer

from reinforce.cli import (
    bench_codec,
    bench_engines,
    bench_generate,
    bench_loader,
    bench_modes,
    bench_ops,
    bench_scale,
    bench_step,
    bench_store,
    demo,
    estimate,
    export,
    generate,
    import_,
    inspect,
    pack,
    publish,
    pull,
    show,
    train,
    verify,
)
from reinforce.cli import list as listing
from reinforce.cli.lazy import SETTINGS, add_command
from reinforce.cli.progress import Progress
from reinforce.cli.renamed import renamed
from reinforce.long_work import listen

_MANY_VALUES = ("--teacher-kwargs", "--student-kwargs")

_FORMAT = warnings.formatwarning

app = typer.Typer(
    name="reinforce",
    help="Knowledge distillation at the price of plain training: run the teacher once, replay its views for every student.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)
for module in (generate, train, estimate, inspect, verify, show, pack, publish, pull, import_, export, listing, demo):
    add_command(app, module)
bench = typer.Typer(help="Run a measurement and print its results and conditions.", no_args_is_help=True)
for measurement in (
    bench_modes,
    bench_codec,
    bench_ops,
    bench_loader,
    bench_step,
    bench_generate,
    bench_engines,
    bench_store,
    bench_scale,
):
    add_command(bench, measurement)
app.add_typer(bench, name="bench")


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        from reinforce import __version__

        typer.echo(__version__)
        raise typer.Exit


def spread(arguments: list[str]) -> list[str]:
    """Repeat the option's name before each of several values, as timm allows `--teacher-kwargs a=1 b=2` and typer does not."""
    result: list[str] = []
    option: str | None = None
    for argument in arguments:
        if argument.startswith("-"):
            option, fresh = (argument if argument in _MANY_VALUES else None), True
            result.append(argument)
        else:
            if option is not None and not fresh:
                result.append(option)
            result.append(argument)
            fresh = False
    return result


def _as_note(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """What our own code warns of in one line, and not with the place in the code, which is nothing to a user."""
    own = issubclass(category, UserWarning) and Path(filename).is_relative_to(Path(__file__).parents[1])
    return f"note: {message}\n" if own else _FORMAT(message, category, filename, lineno, line)


def run(arguments: list[str]) -> None:
    """Run a command. It ends as the error of ours, or the `SystemExit`, that `main` turns into an exit code."""
    # torch warns if there are more processes than cores; the user chose the number, so no warning is needed.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    warnings.formatwarning = _as_note
    known, notes = renamed(arguments)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    listen(lambda name, unit: Progress(name, unit, quiet="--json" in known))
    app(spread(known))

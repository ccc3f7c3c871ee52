"""`reinforce inspect`: show the contents of a reinforced dataset."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from reinforce.cli import options as o

NAME = "inspect"


def command(
    root: Annotated[str, typer.Argument(metavar="DIR|URL", help="Reinforced dataset, complete or not, or published.")],
    as_json: o.Json = False,
) -> None:
    """Show teacher, policy, views, bytes per view, label statistics and completeness."""
    from reinforce.labels.codecs import codec_name
    from reinforce.verification.summary import summarise

    summary = summarise(root)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    if summary.get("pack"):
        labels = summary["labels"]
        size = f", shorter side {summary['resize']} pixels" if summary["resize"] else ""
        typer.echo(f"shards      {summary['shards']} of {summary['bytes']:,} bytes with {summary['samples']} images{size}")
        if labels is not None:
            typer.echo(f"teacher     {', '.join(t['name'] for t in labels['teachers'])}")
            typer.echo(
                f"policy      {labels['policy']}\nviews       {labels['views']}\ncodec       {codec_name(labels['codec'])}"
            )
            typer.echo(f"labels      those of the manifest {labels['sha256'][:12]}")
        return
    hashes = [(t["name"], t["weights_sha256"]) for t in summary["teachers"]]
    teachers = ", ".join(f"{name} ({digest[:12] if digest else 'weights not known'})" for name, digest in hashes)
    maps = summary["codec"]["name"] == "map"
    per_sample = "a label map of the whole image" if maps else f"{summary['views']} per sample"
    what = "image" if maps else "view"
    rows = {
        "teacher": teachers,
        "policy": summary["policy"],
        "views": f"{per_sample}, {summary['size']}x{summary['size']} pixels, seed {summary['seed']}",
        "codec": codec_name(summary["codec"]),
        "classes": f"{summary['classes']}, {'with' if summary['labelled'] else 'without'} hard labels",
    }
    if origin := summary["origin"]:
        rows["origin"] = f"imported from {origin['format']}; pixels by {origin['pixels']}; replay: {origin['replay']}"
        if error := origin["replay_error"]:
            rows["origin"] += (
                f" (mean difference {error['mean']:.3g} of 255, at most {error['max']}, in {error['views']} views)"
            )
    if not summary["complete"]:
        rows["complete"] = f"no: {summary['blocks_done']} of {summary['blocks']} blocks; run the same generate again"
    else:
        counts, stats = summary["counts"], summary["statistics"]
        here, blocks = summary["blocks_here"], summary["blocks"]
        rows["complete"] = f"yes: {blocks} blocks" if here == blocks else f"{here} of {blocks} blocks are here"
        if summary["part_of"]:
            rows["complete"] += f"; a part of {summary['part_of'][:12]}"
        rows["samples"] = f"{counts['ok']} ok, {counts['missing']} missing, {counts['corrupt']} corrupt"
        rows[f"bytes/{what}"] = ", ".join(f"{name} {size:.2f}" for name, size in summary["bytes_per_view"].items())
        if stats["top1_probability"] is not None:
            rows["top-1"] = f"mean probability {stats['top1_probability']:.4f}, remainder {stats['remainder']:.4f}"
        if stats["codec_samples"]:
            kl = "infinite" if stats["codec_kl"] is None else f"{stats['codec_kl']:.4f} nats"  # JSON has no infinity
            rows["codec error"] = (
                f"KL {kl}, top-1 bias {stats['codec_top1_bias']:+.1e}, "
                f"bias of an image {stats['codec_image_bias']:.4f}, on all views of {stats['codec_samples']} samples"
            )
        if stats["hard_label_agreement"] is not None:
            rows["agreement"] = f"{100 * stats['hard_label_agreement']:.1f} % of {what}s have the hard label as top class"
        rows["made with"] = ", ".join(f"{k} {v}" for k, v in summary["environment"].items())
    for name, text in rows.items():
        typer.echo(f"{name:<11} {text}")
    for key, reason in summary.get("not_ok", {}).items():
        typer.echo(f"not ok      {key}: {reason}")

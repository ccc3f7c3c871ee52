"""S3 under attack: publish, pull and generate at a server that throttles, lies, drops and sends without end; and kills.

    python tests/fuzz/s3.py --cases 500 --seed 1 --minutes 30

After a command that failed or was killed nothing half may be seen, and the same command must end well, at a server that has
come to its senses, with equal bytes. Order and moments depend on the machine: a seed gives a plan.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import boto3
import botocore.retries.standard
import numpy as np
import s3fs.core
import torch

from reinforce.files import file_sha256
from reinforce.settings import read_model, to_json
from reinforce.sources import retry
from reinforce.sources.pack_manifest import PACK, Pack
from tests.fuzz.bases import IMAGES, WEIGHTS, prepared
from tests.fuzz.commands import digests, look, start
from tests.fuzz.kills import _end, _signal
from tests.fuzz.mutate import memory
from tests.fuzz.pool import run_all
from tests.fuzz.s3_server import BUCKET, WAYS, Plan, serve
from tests.fuzz.trial import Fault

PART = 5 << 20
SOURCE = "source"
NAMES = (
    "publish", "publish", "publish pack", "publish pack", "pull", "pull", "pull pack", "generate", "generate",
    "generate there", "generate there",
)  # fmt: skip
LISTS = {"publish": "publication.json", "publish pack": PACK, "generate there": "publication.json"}
SIGNALS = ("KILL group", "KILL", "TERM", "INT", "INT group")
_SMALL = ("--views", 4, "--stripe-views", 2, "--block-size", 2, "--size", 32, "--device", "cpu", "--batch-size", 8)


def arguments_of(name: str, bases: Path, out: Path) -> list[object]:
    """A command that writes to, or reads from, the bucket."""
    to = ("--to", f"s3://{BUCKET}/out", "--name", "digits")
    return {
        "publish": ["publish", bases / "mixed", *to],
        "publish pack": ["publish", bases / "big-pack", *to, "--with-images"],
        "pull": ["pull", f"s3://{BUCKET}/publication", "--jobs", 3, "--out", out],
        "pull pack": ["pull", f"s3://{BUCKET}/pack-publication", "--jobs", 3, "--out", out],
        "generate": [
            "generate", "--data", f"s3://{BUCKET}/{IMAGES}", "--teacher", "test_resnet", "--teacher-weights", bases / WEIGHTS,
            "--workers", 0, *_SMALL, "--out", out,
        ],
        "generate there": [
            "generate", "--data", bases / IMAGES, "--teacher", "test_resnet", "--teacher-weights", bases / WEIGHTS,
            "--workers", 0, *_SMALL, "--out", f"s3://{BUCKET}/out",
        ],
    }[name]  # fmt: skip


class Attacks:
    """The cases of a run."""

    def __init__(self, bases: Path, work: Path, seed: int, names: tuple[str, ...], moto: str, proxy: str) -> None:
        self.bases, self.work, self.seed, self.names, self.moto, self.proxy = bases, work, seed, names, moto, proxy

    def client(self) -> Any:
        """To the server itself: nothing that it says is spoilt."""
        return boto3.client("s3", endpoint_url=self.moto, aws_access_key_id="x", aws_secret_access_key="x")

    def fill(self, _: int) -> dict[str, object]:
        """What is read, and the undisturbed result of every command."""
        client = self.client()
        client.create_bucket(Bucket=SOURCE)
        for name in ("publication", "pack-publication", IMAGES):
            for path in sorted((self.bases / name).rglob("*")):
                if path.is_file():
                    client.put_object(Bucket=SOURCE, Key=path.relative_to(self.bases).as_posix(), Body=path.read_bytes())
        for name in sorted(set(self.names)):
            place = self._place()
            begin = time.monotonic()
            bucket = self._bucket(name, f"reference-{name.replace(' ', '-')}")
            code, said = self._run(name, place, Plan(bucket))
            if code:
                raise Fault("an undisturbed command fails", said)
            found = {"files": self._written(name, place, bucket), "seconds": time.monotonic() - begin}
            (self.work / f"{name}.json").write_text(json.dumps(found))
        return {}

    def _place(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.work))

    def _bucket(self, name: str, own: str) -> str:
        """The bucket that a command gets: its own to write to, or that of all to read from."""
        if name not in LISTS:
            return SOURCE
        self.client().create_bucket(Bucket=own)
        return own

    def _start(self, name: str, place: Path, plan: Plan) -> Any:
        os.environ["AWS_ENDPOINT_URL"] = f"{self.proxy}/{plan.path}"
        os.environ["REINFORCE_CACHE"] = str(place / "cache")
        return start(arguments_of(name, self.bases, Path("out")), place, place / "said")

    def _run(self, name: str, place: Path, plan: Plan) -> tuple[int, str]:
        return _end(self._start(name, place, plan))

    def _written(self, name: str, place: Path, bucket: str) -> dict[str, str]:
        if name not in LISTS:
            return digests(place / "out") if (place / "out").exists() else {}
        client, found = self.client(), {}
        for each in client.list_objects_v2(Bucket=bucket).get("Contents", []):
            content = client.get_object(Bucket=bucket, Key=each["Key"])["Body"].read()
            found[each["Key"].removeprefix("out/")] = hashlib.sha256(content).hexdigest()
        return found

    def run(self, number: int) -> dict[str, object]:
        """One case: what was done to which command, and the fault if there was one."""
        rng = np.random.default_rng([self.seed, number])
        name = self.names[int(rng.integers(len(self.names)))]
        reference = json.loads((self.work / f"{name}.json").read_text())
        act = SIGNALS[int(rng.integers(len(SIGNALS)))] if rng.integers(3) == 0 else "damage"
        way = str(rng.choice(WAYS)) if rng.integers(2) else "any"
        rate = int(rng.choice([3, 10, 30, 100])) if act == "damage" else int(rng.choice([0, 0, 10]))
        bucket = self._bucket(name, f"case-{os.getpid()}-{number}")
        plan, place = Plan(bucket, int(rng.integers(1 << 30)), rate, way), self._place()
        about: dict[str, object] = {"command": name, "act": act, "way": way if rate else "none", "rate": rate}
        try:
            code, said = self._attack(rng, name, act, place, plan, reference["seconds"])
            about["code"] = code
            self._check(name, act, code, said, place, bucket, reference["files"])
            code, said = self._run(name, place, Plan(bucket))
            if code and not (
                name == "generate" and "error:" in said and reference["files"] == self._written(name, place, bucket)
            ):
                raise Fault("the same command does not end well", said)
            found = self._written(name, place, bucket)
            if found != reference["files"]:
                raise Fault(
                    "other bytes in the end", ", ".join(sorted({p for p, _ in found.items() ^ reference["files"].items()})[:5])
                )
        except Fault as fault:
            return about | {"kind": fault.kind, "trace": str(fault)[-5000:]}
        finally:
            shutil.rmtree(place, ignore_errors=True)
            if name in LISTS:
                self._remove(bucket)
        return about

    def _attack(
        self, rng: np.random.Generator, name: str, act: str, place: Path, plan: Plan, seconds: float
    ) -> tuple[int, str]:
        run = self._start(name, place, plan)
        if act != "damage":
            time.sleep(float(rng.uniform(0, 1.1)) * seconds)
            _signal(rng, act, run.pid)
        begin = time.monotonic()
        code, said = _end(run)
        if time.monotonic() - begin > 60:
            raise Fault("takes more than a minute", said)
        return code, said

    def _check(self, name: str, act: str, code: int, said: str, place: Path, bucket: str, wanted: dict[str, str]) -> None:
        """What a reader may see after the attack."""
        if "Traceback" in said or "Exception ignored" in said or "never retrieved" in said:
            raise Fault("a traceback", said)
        allowed = {0, 1, 2} | ({-9, -15, 130, 143} if act != "damage" else set())
        if code not in allowed or (code in (1, 2) and "error:" not in said):
            raise Fault(f"code {code}", said)
        found = self._written(name, place, bucket)
        if name in LISTS:
            found.pop("job.json", None)  # what a run was begun with lies there until it has ended
            if bad := [path for path, digest in found.items() if digest != wanted.get(path)]:
                raise Fault("half of a file is seen", ", ".join(bad[:3]))
            if LISTS[name] in found and found != wanted:
                raise Fault("a list before its files", ", ".join(sorted(wanted.keys() - found.keys())[:3]))
            if code == 0 and found != wanted:
                raise Fault("success without the files", said)
        else:
            look(name, place / "out", wanted)
            if code == 0 and found != wanted:
                raise Fault("silent: other data", ", ".join(sorted({p for p, _ in found.items() ^ wanted.items()})[:5]))
        if left := {p.name for p in place.iterdir()} - {"out", "said", "cache"}:
            raise Fault("a file outside --out", ", ".join(left))

    def _remove(self, bucket: str) -> None:
        client = self.client()
        for each in client.list_objects_v2(Bucket=bucket).get("Contents", []):
            client.delete_object(Bucket=bucket, Key=each["Key"])
        for each in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
            client.abort_multipart_upload(Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"])
        client.delete_bucket(Bucket=bucket)


def big_pack(bases: Path) -> None:
    """A pack whose first shard is sent in three parts: zeros at the end of a tar mean nothing."""
    root = Path(shutil.copytree(bases / "mixed-pack", bases / "big-pack"))
    about = read_model(Pack, (root / PACK).read_bytes(), PACK)
    path = root / about.shards[0].name
    with open(path, "ab") as file:
        file.write(bytes(2 * PART + (1 << 20)))
    changed = about.shards[0].model_copy(update={"bytes": path.stat().st_size, "sha256": file_sha256(path)})
    (root / PACK).write_text(to_json(about.model_copy(update={"shards": [changed, *about.shards[1:]]})))


def quick() -> None:
    """Pauses and time-outs of this process and of those that it forks: a hundredth of the real ones, or less."""
    retry.PAUSE_S, retry.LONGEST_PAUSE_S, retry.TIMEOUT_S = 0.02, 0.5, 2.0
    botocore.retries.standard.ExponentialBackoff.delay_amount = lambda self, context: 0.01
    s3fs.core.calculate_chunksize = lambda *_, **__: PART


def attacks(
    cases: int, seed: int, minutes: float, processes: int, work: Path, first: int = 0, names: tuple[str, ...] = NAMES
) -> Iterator[dict[str, object]]:
    """Run cases against one server, as many as there is time for."""
    quick()
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    bases = prepared(work)
    if not (bases / "big-pack").exists():
        big_pack(bases)
    (work / "s3").mkdir()
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    server = multiprocessing.get_context("fork").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        todo = Attacks(bases, work / "s3", seed, names, *ours.recv())
        until = time.time() + 60 * minutes
        for made in run_all(todo.fill, [0], 1, until, seconds=300, limited=False):
            assert "kind" not in made, made
        yield from run_all(todo.run, range(first, first + cases), processes, until, 200)
    finally:
        server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--report", type=Path, help="a JSON line per fault")
    given = parser.parse_args()
    torch.set_num_threads(1)
    counts, faults, begin = Counter[str](), Counter[str](), time.time()
    with tempfile.TemporaryDirectory(dir=memory()) as work:
        os.environ |= {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1", "REINFORCE_CACHE": f"{work}/cache"}
        for result in attacks(given.cases, given.seed, given.minutes, given.processes, Path(work), given.first):
            code = result.get("code")
            ended = "well" if code == 0 else "refused" if code in (1, 2) else "killed"
            counts.update(["all", f"{result.get('command')}", f"{result.get('act')}", ended])
            if "kind" in result:
                faults[f"{result['kind']}; {result.get('command')}; {result.get('act')}; {result.get('way')}"] += 1
                if given.report:
                    with open(given.report, "a") as file:
                        file.write(json.dumps(result | {"seed": given.seed}, default=str) + "\n")
            if counts["all"] % 50 == 0:
                print(f"{counts['all']} cases, {sum(faults.values())} faults, {time.time() - begin:.0f} s", flush=True)
    print(f"seed {given.seed}: " + ", ".join(f"{n} {what}" for what, n in counts.items()) + f", {time.time() - begin:.0f} s")
    for name, count in faults.most_common():
        print(f"{count:6}  {name}")
    print(f"{sum(faults.values())} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

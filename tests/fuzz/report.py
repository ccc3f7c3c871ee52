"""Report: counts and faults of a run of a fuzzer, as it goes on and at its end; a JSON line per fault."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Result = dict[str, object]


class Report:
    """What came of a run.

    Args:
        seed: Of the run.
        unit: What is counted, in the plural.
        every: After so many a line is printed.
        path: File to which faults are added, a JSON line each; None: none.
        name: What counts as one finding, of a result that is a fault.
    """

    def __init__(self, seed: int, unit: str, every: int, path: Path | None, name: Callable[[Result], str]) -> None:
        self.seed, self.unit, self.every, self.path, self.name = seed, unit, every, path, name
        self.counts, self.faults = Counter[str](), Counter[str]()
        self.examples: dict[str, object] = {}
        self.started = time.time()

    def add(self, result: Result, *kinds: str) -> None:
        """Count a result, as one of each of `kinds` too."""
        self.counts.update((self.unit, *kinds))
        if "kind" in result:
            name = self.name(result)
            self.faults[name] += 1
            self.examples.setdefault(name, result["number"])
            if self.path:
                with self.path.open("a") as file:
                    file.write(json.dumps(result | {"signature": name, "seed": self.seed}, default=str) + "\n")
        if self.counts[self.unit] % self.every == 0:
            print(f"{self.counts[self.unit]} {self.unit}, {self.faults.total()} faults, {self._seconds()}", flush=True)

    def all(self, results: Iterable[Result], kinds: Callable[[Result], Iterable[str]]) -> int:
        """Count results as they come, and say at the end what came of them; the exit code: 1 if there was a fault."""
        for result in results:
            self.add(result, *kinds(result))
        for line in self.lines():
            print(line)
        return 1 if self.faults else 0

    def lines(self) -> Iterator[str]:
        """The end of the report: all counts, and each finding with the number of its first case."""
        yield f"seed {self.seed}: " + ", ".join(f"{n} {what}" for what, n in self.counts.items()) + f", {self._seconds()}"
        for name, count in self.faults.most_common():
            yield f"{count:6}  {name}; such as number {self.examples[name]}"
        yield f"{self.faults.total()} faults"

    def _seconds(self) -> str:
        return f"{time.time() - self.started:.0f} s"

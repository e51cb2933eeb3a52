"""What was measured, and what follows from it: medians with least and most, and ratios taken inside one round."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One run: `done` of `asked` files (or IDs) in `wall` seconds.

    `cpu` is in seconds of user and system CPU, `peak_mb` is the peak RSS in MB; both are 0 where they were not
    measured. `refused` counts the requests that a rate limit has refused.
    """

    wall: float
    cpu: float
    peak_mb: float
    done: int
    asked: int
    refused: int = 0

    @property
    def complete(self) -> bool:
        """Whether everything asked for is there."""
        return self.done == self.asked

    @property
    def rate(self) -> float:
        """Things a second."""
        return self.done / self.wall

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds a thing."""
        return 1000 * self.cpu / max(self.done, 1)


@dataclass(frozen=True)
class Spread:
    """The median of some values, with least and most."""

    median: float
    least: float
    most: float

    def text(self, form: str) -> str:
        """For example `1.20 (1.10-1.31)`."""
        if self.least == self.most:
            return f"{self.median:{form}}"
        return f"{self.median:{form}} ({self.least:{form}}-{self.most:{form}})"


def spread(values: Sequence[float]) -> Spread:
    """The spread of `values`, of which there is at least one."""
    return Spread(median(values), min(values), max(values))


@dataclass
class Scenario:
    """One table: a row of samples for each client, round by round. All rows are compared with the first."""

    name: str
    title: str
    rows: dict[str, list[Sample]]
    server: str = ""
    server_cpu_ms: float = 0.0
    unit: str = "files"

    @property
    def first(self) -> list[Sample]:
        """The row that the others are compared with."""
        return next(iter(self.rows.values()))

    def ratio(self, row: str, value: Callable[[Sample], float]) -> Spread | None:
        """`value` of the first row to that of `row`, by rounds; None if a run was not complete or not measured."""
        pairs = list(zip(self.first, self.rows[row], strict=True))
        if not all(their.complete and value(their) for _, their in pairs) or self.rows[row] is self.first:
            return None
        return spread([value(our) / value(their) for our, their in pairs])


@dataclass
class Report:
    """All scenarios of one or more calls, the machine, and what could not be measured and why."""

    machine: dict[str, str]
    scenarios: list[Scenario] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it as JSON: all samples, and the figures that follow from them."""
        content = asdict(self)
        for scenario, written in zip(self.scenarios, content["scenarios"], strict=True):
            written["figures"] = {row: figures(scenario, row) for row in scenario.rows}
        path.write_text(json.dumps(content, indent=1) + "\n")


def figures(scenario: Scenario, row: str) -> dict[str, Any]:
    """The figures of one row, for who reads the JSON."""
    samples = scenario.rows[row]
    found = {
        f"{scenario.unit}_per_second": spread([sample.rate for sample in samples]),
        "seconds": spread([sample.wall for sample in samples]),
        "cpu_ms_each": spread([sample.cpu_ms for sample in samples]),
        "peak_rss_mb": spread([sample.peak_mb for sample in samples]),
        "first_row_rate_to_this": scenario.ratio(row, lambda sample: sample.rate),
        "first_row_cpu_to_this": scenario.ratio(row, lambda sample: sample.cpu_ms),
    }
    return {name: value and asdict(value) for name, value in found.items()}


def load(paths: Sequence[Path]) -> Report:
    """One report of what `save` wrote to several files; the machine is that of the first."""
    report: Report | None = None
    for path in paths:
        content = json.loads(path.read_text())
        report = report or Report(content["machine"])
        report.missing |= content["missing"]
        for scenario in content["scenarios"]:
            del scenario["figures"]
            rows = {row: [Sample(**sample) for sample in samples] for row, samples in scenario.pop("rows").items()}
            report.scenarios.append(Scenario(rows=rows, **scenario))
    assert report is not None
    return report

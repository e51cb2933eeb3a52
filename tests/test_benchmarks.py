"""The benchmark works. How fast anything is, no test says: that depends on the machine and on what else it does."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

NIGHTS = Path(__file__).parent / "benchmarks" / "nights.py"
COMPARE = Path(__file__).parent / "benchmarks" / "compare.py"


def compare(*arguments: str | Path) -> str:
    """What the benchmark prints."""
    done = subprocess.run(
        [sys.executable, COMPARE, *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(110)
def test_the_benchmark_measures_and_draws(tmp_path):
    """One round of 20 files gives figures for bulkfetch and for each peer that is installed; the others are named."""
    figures, chart = tmp_path / "figures.json", tmp_path / "figures.svg"
    scenarios = ["disk-30kb", "latency-50-32-errors", "first-file"]
    shown = compare(*scenarios, "--quick", "--work-dir", tmp_path, "--json", figures, "--svg", chart)
    report = json.loads(figures.read_text())
    assert [scenario["name"] for scenario in report["scenarios"]] == scenarios
    disk = report["scenarios"][0]
    assert [sample["done"] for sample in disk["rows"]["bulkfetch"]] == [20]
    assert disk["figures"]["bulkfetch"]["files_per_second"]["median"] > 0
    peers = {"naive script", "curl -Z, two passes", "parfive (no PUT)", "aria2c (no PUT)"}
    assert set(disk["rows"]) | set(report["missing"]) >= peers
    assert all(name in shown for name in report["missing"])
    assert "bulkfetch" in "".join(ElementTree.parse(chart).getroot().itertext())
    table = compare("--from", figures, "--markdown")
    assert table.startswith("|  | a second |")
    assert all(scenario["title"] in table for scenario in report["scenarios"])


def test_the_benchmark_of_many_nights_works(tmp_path):
    """Three nights of ten invoices give all of its figures, and it leaves nothing behind."""
    line = [sys.executable, NIGHTS, "--nights", "3", "--rows", "10", "--work-dir", tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 nights of 10 rows: ")
    assert "start with the ledger" in done.stdout
    assert list(tmp_path.iterdir()) == []

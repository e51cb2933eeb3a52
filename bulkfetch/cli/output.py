"""How anything is written for a person or a script: lines, JSON, numbers, plan and checks."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

import msgspec
from rich.console import Console
from rich.text import Text

from bulkfetch.models import Outcome
from bulkfetch.text import printable

if TYPE_CHECKING:
    from bulkfetch.app import CheckResult, Plan

OUTCOME_STYLE: Mapping[Outcome, str] = {
    Outcome.STORED: "green",
    Outcome.SKIPPED: "cyan",
    Outcome.FAILED: "bold red",
    Outcome.REJECTED: "yellow",
}


def emit(stream: TextIO, line: str) -> None:
    """Write `line` at once."""
    stream.write(line + "\n")
    stream.flush()


def as_json(value: object) -> str:
    """`value` as JSON in one line of printable ASCII: nothing in it can steer a terminal."""
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":"))


def human_bytes(size: float) -> str:
    """`size` with a binary unit: "1.4 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """`seconds` with the two largest units: "1 h 12 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def print_plan(plan: "Plan", *, to_json: bool) -> None:
    """Print `plan` on stdout."""
    if to_json:
        emit(sys.stdout, as_json(plan))
        return
    numbers = {
        "rows": plan.read,
        "to fetch": plan.to_fetch,
        **({"to adopt": plan.to_adopt} if plan.to_adopt else {}),
        "already stored": plan.already_stored,
        "accepted gaps": plan.accepted,
        "duplicates": plan.duplicates,
        "rejected": plan.rejected,
    }
    print_numbers(numbers)
    print_not_rows(plan.not_rows)
    if plan.manifests_only:
        print_manifests_only()
    if plan.seconds_at_rate is not None:
        emit(sys.stdout, f"{'takes at least':<15} {human_seconds(plan.seconds_at_rate)}, at the rate that is set")
    if plan.names_taken:
        emit(sys.stdout, f"{'names taken':<15} {plan.names_taken:,}, so a hash is added")
    if plan.moved:
        emit(sys.stdout, f"{'stay in place':<15} {plan.moved:,} that are stored would get another key today")
    if plan.keys:
        emit(sys.stdout, "\nfirst keys")
    for planned in plan.keys:
        note = f"  ({printable(planned.note)})" if planned.note else ""
        emit(sys.stdout, f"  {printable(planned.invoice_id)}  {printable(planned.key, 1000)}{note}")
    print_problems(plan.problems)
    if plan.shortfall:
        emit(sys.stderr, f"bulkfetch: {plan.shortfall}")


def print_not_rows(not_rows: Mapping[str, int]) -> None:
    """Say on stdout how many lines of an input are no rows; nothing if there is none."""
    if not_rows:
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in sorted(not_rows.items()))
        emit(sys.stdout, f"no rows but lines: {kinds}")


def print_manifests_only() -> None:
    """Say on stdout what "already stored" rests on where nobody looked at the objects."""
    emit(sys.stdout, "what is already stored was read in the bucket's manifests; the objects were not looked for")


def print_numbers(numbers: Mapping[str, int]) -> None:
    """Print `numbers` on stdout, each with its name, one below the other."""
    width = max(7, *(len(f"{number:,}") for number in numbers.values()))
    for name, number in numbers.items():
        emit(sys.stdout, f"{name:<15}{number:>{width},}")


def print_problems(problems: Sequence[tuple[int | None, str]]) -> None:
    """Print the line and the problem of each row in `problems`, which cannot be used; nothing if there is none."""
    if problems:
        emit(sys.stdout, "\nfirst problems")
    for line, message in problems:
        emit(sys.stdout, f"  {f'line {line}: ' if line else ''}{printable(message)}")


def print_checks(results: Sequence["CheckResult"]) -> None:
    """Print the outcome of each check on stdout."""
    console = Console(highlight=False)
    fancy = (console.encoding or "").lower().startswith("utf")
    marks = {True: ("✓" if fancy else "ok", "green"), False: ("✗" if fancy else "no", "bold red")}
    width = max((len(result.name) for result in results), default=0)
    for result in results:
        mark, style = marks[result.ok] if result.ok is not None else ("\N{EN DASH}" if fancy else "--", "dim")
        line = Text(mark, style=style).append(
            f"  {printable(result.name):<{width}}  ", style="bold" if result.ok is False else ""
        )
        console.print(line.append(printable(result.detail), style="default"), soft_wrap=True)

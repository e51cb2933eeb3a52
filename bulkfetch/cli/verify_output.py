"""What a person or a script sees of a verification."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from bulkfetch.app.verify_findings import ERRORS, Finding, Kind
from bulkfetch.app.verify_objects import Progress
from bulkfetch.app.verify_record import Verification
from bulkfetch.cli.output import as_json, emit, human_bytes, human_seconds
from bulkfetch.cli.plan_progress import drawn
from bulkfetch.text import printable

SHOWN = 20
"""How many findings of a kind a person is shown; --json has them all."""


class FindingsShown:
    """Writes findings as they come: all as JSON to stdout, or the first of each kind in words to stderr."""

    def __init__(self, *, to_json: bool) -> None:
        self._to_json = to_json
        self._seen = Counter[Kind]()

    def __call__(self, finding: Finding) -> None:
        """Write `finding`."""
        self._seen[finding.finding] += 1
        if self._to_json:
            sys.stdout.write(as_json(finding) + "\n")
        elif (number := self._seen[finding.finding]) <= SHOWN:
            emit(sys.stderr, _sentence(finding))
        elif number == SHOWN + 1:
            emit(sys.stderr, f"more that is {_WORDS[finding.finding]}: --json names all of it")


_WORDS = {kind: kind.replace("_", " ") for kind in Kind}


def _sentence(finding: Finding) -> str:
    who = [] if finding.invoice_id is None else [f"invoice {finding.invoice_id}"]
    where = [f"line {finding.line}"] if finding.line is not None else []
    what = ", ".join([each for each in (finding.key, *who, *where) if each])
    moved = "; it was moved to quarantine" if finding.set_aside else ""
    level = "" if finding.finding in ERRORS else "warning: "
    return printable(f"{level}{_WORDS[finding.finding]}: {what}: {finding.message}{moved}", limit=2000)


def print_verification(verification: Verification, *, to_json: bool) -> None:
    """Print the outcome: as a last line of JSON on stdout, or as a block for people on stderr."""
    if to_json:
        emit(sys.stdout, as_json(verification))
        return
    Console(stderr=True, highlight=False).print(_block(verification), soft_wrap=True)


def _block(verification: Verification) -> Text:
    good = not verification.errors
    text = Text("\n").append(_headline(verification), style="bold green" if good else "bold red")
    text.append(f"  {verification.checked:,} objects in {human_seconds(verification.seconds)}\n\n")
    numbers = {
        "named by rows": verification.objects,
        "looked at": verification.checked,
        "missing": verification.missing,
        "damaged": verification.damaged,
        "extra": verification.extra,
        "chain": verification.chain,
        "not stored": verification.not_stored,
        "accepted gaps": verification.accepted,
        "superseded": verification.superseded,
        "set aside": verification.set_aside,
    }
    width = max(7, *(len(f"{number:,}") for number in numbers.values()))
    always = {"named by rows", "looked at", "missing", "damaged", "extra"}
    for name, number in numbers.items():
        if number or name in always:
            text.append(f"  {name:<15}{number:>{width},}\n")
    text.append(f"  {'read':<15}{_speed(verification)}\n")
    if verification.meeting:
        text.append(f"  names           {verification.meeting:,} would meet another on a disk that folds case\n")
    for run in verification.unsealed[:3]:
        text.append(f"  not sealed      rows of run {run}, which has no summary yet: the next run seals them\n")
    for head in verification.heads:
        text.append(f"  {'head':<15} {head}\n")
    left = verification.unmended - (verification.errors - verification.set_aside)
    if left > 0:
        text.append(f"  unmended        {left:,} found earlier, and not looked at this time\n", style="bold")
    text.rstrip()
    return text


def _headline(verification: Verification) -> str:
    if verification.errors:
        return f"not as its manifests say: {verification.errors:,} found"
    match verification.kind:
        case "full":
            return "verified: every object was read and is as it was stored"
        case "quick":
            return "all there, by name and size; nothing was read"
        case "ids":
            return "the list is archived"
        case _:
            return "all there; what was read is as it was stored"


def _speed(verification: Verification) -> str:
    rate = verification.bytes / max(verification.seconds, 0.001)
    noted = f"; {verification.noted:,} by the store's own checksum" if verification.noted else ""
    return f"{human_bytes(verification.bytes):>8}, {human_bytes(rate)}/s{noted}"


class VerifyProgress:
    """Keeps how far a verification is, and draws it when asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._progress = Progress()

    def __call__(self, progress: Progress) -> None:
        """Take note of `progress`."""
        self._progress = progress

    def __rich_console__(self, _: Console, __: ConsoleOptions) -> RenderResult:
        done, seconds = self._progress, max(self._clock() - self._began, 0.001)
        objects = f"{done.objects:,} objects"
        if done.total_objects:
            objects = (
                f"{done.objects * 100 // done.total_objects:>3}%  {done.objects:,} / {done.total_objects:,} objects"
            )
        yield Text(f"{objects}  {human_bytes(done.bytes / seconds)}/s", no_wrap=True, overflow="ellipsis")


@contextmanager
def verify_progress() -> Iterator[VerifyProgress]:
    """What shows the numbers on stderr while the block lasts, if that is a terminal; they are erased at the end."""
    progress = VerifyProgress()
    with drawn(progress):
        yield progress

"""`bulkfetch verify`: is the archive what its manifests say, and are the manifests as they were written?"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import anyio
import msgspec
from anyio import to_thread

from bulkfetch.app.open_archive import open_store, utc_now
from bulkfetch.app.open_for_reading import OpenedArchive, open_for_reading
from bulkfetch.app.outside import with_way_out
from bulkfetch.app.verify_findings import Finding, Findings, Kind
from bulkfetch.app.verify_list import check_list
from bulkfetch.app.verify_objects import Checker, Choice, Progress, is_key
from bulkfetch.app.verify_record import Verification, earlier_findings, encoded, unmended
from bulkfetch.config import Config
from bulkfetch.errors import BulkfetchError, DamagedManifest
from bulkfetch.events import Listener, Note
from bulkfetch.keys import MANIFESTS, STATE
from bulkfetch.manifest import Problem, new_run_id, unfinished_runs
from bulkfetch.manifest.chain_check import Chain, check_chain
from bulkfetch.manifest.errors import sqlite_errors
from bulkfetch.manifest.open_run import must_adopt
from bulkfetch.manifest.states import InvoiceStates
from bulkfetch.models import utc_iso
from bulkfetch.retrying import persisting
from bulkfetch.stores.sorting import SortedListing

SECOND_LOOK = 2.0
"""Seconds after which what no row named is looked at once more: a run at work writes a row after its object."""

_LISTING_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be verified. `ids` is a list whose invoices alone are looked at. `heads` are digests of summaries that
    must be there. With `download` a bucket's own checksums are not believed; with `set_aside` extras are moved."""

    choice: Choice = field(default_factory=Choice)
    ids: str | None = None
    heads: Sequence[str] = ()
    download: bool = False
    set_aside: bool = False


def verify_archive(
    config: Config,
    wanted: Wanted,
    *,
    environ: Mapping[str, str],
    tell: Callable[[Finding], None],
    progress: Callable[[Progress], None] = lambda _: None,
    notify: Listener = lambda event: None,  # noqa: ARG005 - nobody listens
) -> Verification:
    """Verify the archive that `config` names, and keep in it what was found.

    Args:
        environ: holds the credentials for a bucket.
        tell: told each finding, at the end.
        progress: told now and then how far it is.
        notify: told what else a person should know.

    Raises:
        ArchiveLocked: a run holds the archive.
        UsageError: there is no archive, or what is wanted cannot be.
        FatalError: the archive cannot be read.
    """
    return anyio.run(_verify, config, wanted, with_way_out(environ, config.api), tell, progress, notify)


async def _verify(
    config: Config,
    wanted: Wanted,
    environ: Mapping[str, str],
    tell: Callable[[Finding], None],
    told: Callable[[Progress], None],
    notify: Listener,
) -> Verification:
    began, clock = utc_now(), time.monotonic()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="bulkfetch-")))
        findings = stack.enter_context(Findings.open())
        opening = open_for_reading(
            config, environ, scratch, download=wanted.download, alone=wanted.set_aside, notify=notify
        )
        async with opening as archive:
            job = _Job(config, wanted, archive, findings, Progress(told=told), notify)
            try:
                await job.run(environ, scratch)
            except DamagedManifest as error:
                findings.add([Finding(finding=Kind.CHAIN, key=f"{MANIFESTS}/", message=str(error))])
            verification = await job.verification(utc_iso(began), time.monotonic() - clock)
            for page in findings.pages():
                for _, finding in page:
                    tell(finding)
            return verification


@dataclass(slots=True)
class _Job:
    """One verification. Mutable: what it has come to know so far."""

    config: Config
    wanted: Wanted
    archive: OpenedArchive
    findings: Findings
    progress: Progress
    notify: Listener
    chain: Chain = field(default_factory=Chain)
    objects: int = 0
    accepted: int = 0
    set_aside: int = 0
    whole: bool = False

    async def run(self, environ: Mapping[str, str], scratch: Path) -> None:
        """Look at everything that is wanted.

        Raises:
            DamagedManifest: rows are lost, so nothing can be said of the objects.
        """
        for part in await self.archive.read_manifests():
            self._add(Problem(part, "it is damaged or gone; its rows were found in the segments"))
        await to_thread.run_sync(self._check_chain)
        with ExitStack() as stack:
            # Threads do all of its work, one at a time.
            states = await to_thread.run_sync(
                stack.enter_context, InvoiceStates.open(self.archive.manifests, self._add)
            )
            self.objects, _ = await to_thread.run_sync(states.count)
            checker = Checker(
                reader=self.archive.reader,
                findings=self.findings,
                choice=self.wanted.choice,
                progress=self.progress,
                workers=self.archive.workers,
            )
            if self.wanted.ids is not None:
                self.accepted = await check_list(
                    self.config, self.wanted.ids, states, checker, scratch / "ids", self.notify
                )
                return
            self.progress.total_objects = self.objects
            await self._compare(checker, states)
            await to_thread.run_sync(self._explain_extras, states)
            await to_thread.run_sync(self._find_meeting, states)
        if self.wanted.set_aside and self.findings.counts[Kind.EXTRA]:
            await self._set_aside(environ, scratch)
        self.whole = True

    def _add(self, problem: Problem) -> None:
        self.findings.add([Finding(finding=Kind.CHAIN, key=problem.file, message=problem.message)])

    def _check_chain(self) -> None:
        self.chain = check_chain(self.archive.manifests)
        for problem in self.chain.problems:
            self._add(problem)
        for head in self.wanted.heads:
            if head.lower() not in self.chain.digests.values():
                self._add(Problem(f"{MANIFESTS}/", f"no summary has the SHA-256 {head}: it is gone, or was changed"))

    async def _compare(self, checker: Checker, states: InvoiceStates) -> None:
        with ExitStack() as stack:
            listing = stack.enter_context(SortedListing.open())
            stack.enter_context(sqlite_errors("the list of what is there"))
            ignored = partial(is_ignored, patterns=self.config.destination.ignore)
            fill = partial(listing.fill_anew, partial(self.archive.reader.listing, ignored))
            await persisting(partial(to_thread.run_sync, fill), 600.0, attempts=_LISTING_TRIES)
            await checker.compare(states.stored(), listing)
        counts = self.findings.counts
        if not (counts[Kind.MISSING] or counts[Kind.DAMAGED] or counts[Kind.EXTRA]):
            return
        if counts[Kind.EXTRA] and (self.archive.in_bucket or unfinished_runs(self.archive.manifests)):
            await anyio.sleep(SECOND_LOOK)
        await to_thread.run_sync(self.archive.pull)
        await to_thread.run_sync(states.refresh)
        await checker.look_again(states)

    def _explain_extras(self, states: InvoiceStates) -> None:
        """Tell an extra that an older row names from one that none does: Object Lock keeps what was superseded."""
        if not self.findings.counts[Kind.EXTRA]:
            return
        for rows in states.ever_stored():
            by_key = {row.key: row for row in rows if row.key}
            for number, finding in self.findings.extras(by_key):
                row = by_key[finding.key]
                if finding.found_size == row.size:
                    older = msgspec.structs.replace(
                        finding,
                        finding=Kind.SUPERSEDED,
                        invoice_id=row.invoice_id,
                        message=f"run {row.run} stored it for the invoice, and a newer row names another object",
                    )
                    self.findings.replace([(number, finding)], [older])

    def _find_meeting(self, states: InvoiceStates) -> None:
        meeting = states.meeting()
        while group := list(islice(meeting, 500)):
            self.findings.add([
                Finding(
                    finding=Kind.MEETING,
                    key=keys[0],
                    message=f"on a disk that folds case it would meet {', '.join(keys[1:])}",
                )
                for keys in group
            ])  # fmt: skip

    async def _set_aside(self, environ: Mapping[str, str], scratch: Path) -> None:
        manifests = self.archive.manifests
        if self.archive.in_bucket and await to_thread.run_sync(must_adopt, manifests):
            self.notify(Note("warning", "nothing was set aside: the newest run has no summary; end it by another run"))
            return
        run = new_run_id(utc_now())
        opening = open_store(self.config, environ, run, scratch / "spool", rng=Random(), notify=self.notify)
        async with opening as store:
            pages = self.findings.pages(Kind.EXTRA)
            while page := await to_thread.run_sync(next, pages, None):
                for number, finding in page:
                    if is_key(finding.key) and await store.set_aside(finding.key):
                        moved = msgspec.structs.replace(finding, set_aside=True)
                        await to_thread.run_sync(self.findings.replace, [(number, finding)], [moved])
                        self.set_aside += 1

    async def verification(self, run_at: str, seconds: float) -> Verification:
        """What was found, which is then kept in the archive."""
        verification = await to_thread.run_sync(self._result, run_at, seconds)
        try:
            await to_thread.run_sync(self.archive.keep, encoded(verification))
        except BulkfetchError as error:
            self.notify(Note("warning", f"what was found cannot be kept: {error}"))
        return verification

    def _result(self, run_at: str, seconds: float) -> Verification:
        counts, choice = self.findings.counts, self.wanted.choice
        try:
            earlier = earlier_findings(self.archive.record())
        except BulkfetchError:
            earlier = ()
        left = unmended(self.findings, earlier, self._looked_at)
        errors = sum(counts[kind] for kind in (Kind.MISSING, Kind.DAMAGED, Kind.EXTRA, Kind.CHAIN, Kind.NOT_STORED))
        return Verification(
            run_at=run_at,
            seconds=round(seconds, 3),
            destination=self.archive.name,
            kind="ids" if self.wanted.ids is not None else choice.kind,
            source=self.wanted.ids,
            objects=self.objects,
            checked=self.progress.objects,
            read=self.progress.read,
            noted=self.progress.noted,
            bytes=self.progress.bytes,
            missing=counts[Kind.MISSING],
            damaged=counts[Kind.DAMAGED],
            extra=counts[Kind.EXTRA],
            chain=counts[Kind.CHAIN],
            not_stored=counts[Kind.NOT_STORED],
            accepted=self.accepted,
            superseded=counts[Kind.SUPERSEDED],
            meeting=counts[Kind.MEETING],
            set_aside=self.set_aside,
            unmended=max(errors - self.set_aside, len(left)),
            unsealed=self.chain.unsealed,
            heads=[self.chain.digests[name] for name in self.chain.heads()],
            findings=left,
        )

    def _looked_at(self, finding: Finding) -> bool:
        """Whether this verification would have found `finding` again."""
        if finding.finding is Kind.CHAIN:
            return bool(self.chain.digests)
        if finding.finding is Kind.NOT_STORED:
            return False
        if not self.whole:
            return False
        return finding.finding is not Kind.DAMAGED or self.wanted.choice.kind == "full"


def is_ignored(key: str, patterns: Sequence[str]) -> bool:
    """Whether `key`, or a folder that ends with a slash, is none of an archive's objects."""
    if key.startswith((f"{MANIFESTS}/", f"{STATE}/")):
        return True
    return any(key.startswith(each) if each.endswith("/") else fnmatchcase(key, each) for each in patterns)

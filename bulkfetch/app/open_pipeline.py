"""Puts the pipeline together: shared by a run and by the tests of it."""

from collections.abc import Awaitable, Callable
from datetime import datetime

import anyio

from bulkfetch.events import Event, Listener
from bulkfetch.interfaces import History, Manifest, Source, Store
from bulkfetch.keys import KeyTemplate
from bulkfetch.net.doubts import Doubts
from bulkfetch.pipeline.adoption import Adoption
from bulkfetch.pipeline.again import Again
from bulkfetch.pipeline.canary import Canary
from bulkfetch.pipeline.corrections import Corrections
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.in_hand import InHand
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.not_ready import ByTheClock, InTheQueue, WaitingRoom, Waits
from bulkfetch.pipeline.pool import Afterwards, Pool
from bulkfetch.pipeline.quota import Quota
from bulkfetch.pipeline.recheck import Recheck
from bulkfetch.pipeline.recorder import Recorder
from bulkfetch.pipeline.refusals import Refusals
from bulkfetch.pipeline.rendezvous import Rendezvous
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.pipeline.second_look import SecondLook
from bulkfetch.pipeline.second_pass import AtTheEnd, BackToTheQueue, SecondPass
from bulkfetch.pipeline.stop import Stop
from bulkfetch.pipeline.triage import Looks, Triage


def open_pipeline(
    run: str,
    *,
    source: Source,
    manifest: Manifest,
    history: History,
    store: Store,
    fetcher: Fetcher,
    keys: KeyTemplate,
    stop: Stop,
    notify: Listener,
    utc_now: Callable[[], datetime],
    workers: int,
    drain: float,
    max_failed_ratio: float,
    adopting: bool,
    doubts: Doubts | None = None,
    last_look: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
    shared: bool,
    limit: int = 0,
    wait_max: float = 30.0,
) -> Pool:
    """The pool that moves the rows of `source` into `manifest`, as the run `run`.

    Args:
        wait_max: seconds; a document that is not ready yet is waited for up to four times as long at a time.
        adopting: look for objects without a row before fetching (after a run that died).
        doubts: the invoices whose answers cannot be trusted.
        last_look: closes every kept connection; on return `doubts` is complete.
        shared: other runs are at work on the archive at the same time.
        limit: how many invoices are fetched at most; 0 sets no limit.
    """
    in_hand, rendezvous = InHand(), Rendezvous[Job]()
    canary = Canary(max_failed_ratio=max_failed_ratio, others_may_take=source.capabilities.shared)
    waits = Waits(wait_max)
    rows = RowWriter(run, utc_now)

    def recorded(event: Event) -> None:
        notify(event)
        second_look.hear(event)

    recorder = Recorder(source=source, manifest=manifest, canary=canary, stop=stop, notify=recorded, in_hand=in_hand)
    corrections = Corrections(manifest, recorder.tally, notify)
    second_look = SecondLook(
        store=store, fetcher=fetcher, rows=rows, corrections=corrections, stop=stop, utc_now=utc_now
    )
    recheck = Recheck(
        doubts=doubts or Doubts(),
        last_look=last_look,
        fetcher=fetcher,
        store=store,
        history=history,
        keys=keys,
        rows=rows,
        corrections=corrections,
        utc_now=utc_now,
        workers=workers,
    )
    waiting: WaitingRoom
    second_pass: SecondPass
    if source.capabilities.comes_again:
        waiting = InTheQueue(waits, canary, in_hand, source)
        second_pass = BackToTheQueue(source, lambda: recorder.tally.answered)
    else:
        waiting = ByTheClock(waits, canary, in_hand, again=rendezvous.put_back)
        second_pass = AtTheEnd()
    looks = Looks(head=store.head, stored=store.cheap_head, unrecorded=adopting or (shared and store.cheap_head))
    return Pool(
        source=source,
        triage=Triage(history=history, keys=keys, repeats=source.capabilities.repeats, looks=looks),
        fetcher=fetcher,
        adoption=Adoption(store=store, history=history, rows=rows, keys=keys),
        rows=rows,
        recorder=recorder,
        again=Again(waiting, second_pass, Refusals(history), in_hand),
        rendezvous=rendezvous,
        afterwards=Afterwards(recheck, second_look),
        canary=canary,
        in_hand=in_hand,
        quota=Quota(limit),
        stop=stop,
        notify=notify,
        utc_now=utc_now,
        workers=workers,
        drain=drain,
    )

"""Puts the pipeline together: shared by a run and by the tests of it."""

from collections.abc import Callable
from datetime import datetime

from bulkfetch.events import Listener
from bulkfetch.interfaces import History, Manifest, Source, Store
from bulkfetch.keys import KeyTemplate
from bulkfetch.pipeline.adoption import Adoption
from bulkfetch.pipeline.canary import Canary
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.in_hand import InHand
from bulkfetch.pipeline.pool import Pool
from bulkfetch.pipeline.recorder import Recorder
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.pipeline.second_pass import AtTheEnd, BackToTheQueue
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
) -> Pool:
    """The pool that moves the rows of `source` into `manifest`, as the run `run`.

    Args:
        adopting: look for objects without a row before fetching (after a run that died).
    """
    shared = source.capabilities.shared
    in_hand, canary = InHand(), Canary(max_failed_ratio=max_failed_ratio, others_may_take=shared)
    rows = RowWriter(run, utc_now)
    recorder = Recorder(source=source, manifest=manifest, canary=canary, stop=stop, notify=notify, in_hand=in_hand)
    looks = Looks(head=store.head, stored=store.cheap_head, unrecorded=adopting or (shared and store.cheap_head))
    return Pool(
        source=source,
        triage=Triage(history=history, keys=keys, repeats=source.capabilities.repeats, looks=looks),
        fetcher=fetcher,
        adoption=Adoption(store=store, history=history, rows=rows, keys=keys, shared=shared),
        rows=rows,
        recorder=recorder,
        second_pass=(
            BackToTheQueue(source, lambda: recorder.tally.answered) if source.capabilities.comes_again else AtTheEnd()
        ),
        canary=canary,
        in_hand=in_hand,
        stop=stop,
        notify=notify,
        utc_now=utc_now,
        workers=workers,
        drain=drain,
    )

"""Two equal downloads decide whose document was stored; a real store and manifest say what became of it."""

import hashlib
from contextlib import asynccontextmanager
from random import Random

import pytest
from support.doubles import GivenBody
from support.puts import put
from support.rows import clock, row

from bulkfetch.errors import PermanentError, Reason
from bulkfetch.keys import KeyTemplate
from bulkfetch.manifest import ManifestWriter
from bulkfetch.models import Link, Outcome
from bulkfetch.net.doubts import Doubts
from bulkfetch.pipeline.corrections import Corrections
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.recheck import Recheck
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.pipeline.tally import Tally
from bulkfetch.retrying import RetryPolicy
from bulkfetch.stores import LocalStore

pytestmark = pytest.mark.anyio

OWN, OTHER, THIRD = b"its own", b"another's", b"a third"


class Hosts:
    """Both origins: the downloads bring what is given, in turn, the last one again and again."""

    def __init__(self, *brings):
        self._brings = list(brings)

    async def mint(self, invoice_id, *, fresh=True):
        return Link(invoice_id, 0.0, 600, invoice_id, fresh)

    async def open(self, link, *, last_bad_sha256=None):
        brings = self._brings.pop(0) if len(self._brings) > 1 else self._brings[0]
        if isinstance(brings, Exception):
            raise brings
        return GivenBody(brings)


class Immovable(LocalStore):
    """A store in which objects are locked."""

    async def set_aside(self, key):
        return False


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@asynccontextmanager
async def checked(root, *brings, stored=OTHER, kind=LocalStore):
    """What a recheck of one invoice leaves, after it was stored with the bytes `stored`, or else has failed."""
    async with ManifestWriter.open(root, clock=clock) as manifest, kind.open(root, manifest.run) as store:
        if stored is not None:
            landed = await put(store, "INV-1.pdf", GivenBody(stored))
            first = row("INV-1", key=landed.key, size=landed.size, sha256=landed.sha256, line=7)
        else:
            first = row("INV-1", Outcome.FAILED, reason=Reason.INVALID_REQUEST, key="INV-1.pdf", line=7)
        await manifest.append([row("INV-0"), first])
        tally, doubts, hosts = Tally(), Doubts(), Hosts(*brings)
        tally.add([row("INV-0"), first])
        doubts.add({"INV-1", "INV-9"})
        policy = RetryPolicy(attempts=2, wait_initial=1e-4, wait_max=1e-4, timeout=0)
        fetcher = Fetcher(
            hosts, hosts, store, policy=policy, rng=Random(0), stopping=lambda: False, notify=lambda event: None
        )

        async def look():
            """There are no connections."""

        await Recheck(
            doubts=doubts, last_look=look, fetcher=fetcher, store=store, history=manifest.history,
            keys=KeyTemplate.parse("{id}.pdf"), rows=RowWriter(manifest.run, clock),
            corrections=Corrections(manifest, tally, lambda event: None), utc_now=clock, workers=4,
        ).finish()  # fmt: skip
        assert doubts.ids == {"INV-9"}, "an invoice without a row stays in doubt"
        found = await manifest.find({"INV-1"})
        assert [position for position, _ in found] == [1]
        yield found[0][1], tally


def aside(root):
    """What is in quarantine."""
    return [path.read_bytes() for path in sorted((root / ".bulkfetch").glob("quarantine/*"))]


async def test_the_same_bytes_again_change_nothing(tmp_path):
    """One more download that is equal is enough, also after one that was not."""
    for number, brings in enumerate([(OTHER,), (OWN, OTHER)]):
        async with checked(tmp_path / str(number), *brings) as (found, tally):
            assert (found.outcome, found.corrects) == ("stored", row("x").corrects)
            assert (tally.corrected, aside(tmp_path / str(number))) == (0, [])


async def test_two_others_that_are_equal_win(tmp_path):
    """The right object takes the place of the wrong one, which moves to quarantine; the row says which it corrects."""
    async with checked(tmp_path, OWN) as (found, tally):
        assert (found.outcome, found.corrects, found.line, found.sha256) == ("stored", 1, 7, sha256(OWN))
        assert ((tmp_path / "INV-1.pdf").read_bytes(), aside(tmp_path)) == (OWN, [OTHER])
        assert (tally.stored, tally.failed, tally.corrected, tally.bytes_stored) == (2, 0, 1, 7 + len(OWN))


@pytest.mark.parametrize("brings", [(OWN, THIRD), (PermanentError(Reason.NOT_FOUND, "HTTP 404"),)])
async def test_where_nothing_agrees_nothing_is_kept(tmp_path, brings):
    """Three different documents, or no second one: `failed/wrong_document`, and the next run may try again."""
    async with checked(tmp_path, *brings) as (found, tally):
        assert (found.outcome, found.reason, found.retryable) == ("failed", Reason.WRONG_DOCUMENT, True)
        assert (aside(tmp_path), list(tmp_path.glob("*.pdf"))) == ([OTHER], [])
        assert (tally.stored, tally.failed, tally.retryable_failures, tally.corrected) == (1, 1, 1, 1)


async def test_what_cannot_be_moved_stays_beside_the_right_one(tmp_path):
    """A locked object keeps its name; the right one is called otherwise."""
    async with checked(tmp_path, OWN, kind=Immovable) as (found, _):
        assert found.key != "INV-1.pdf"
        assert ((tmp_path / found.key).read_bytes(), (tmp_path / "INV-1.pdf").read_bytes()) == (OWN, OTHER)


async def test_an_invoice_that_was_refused_by_mistake_is_stored(tmp_path):
    """A refusal over such a connection is not the last word; one that comes again is."""
    async with checked(tmp_path / "a", OWN, stored=None) as (found, tally):
        assert (found.outcome, found.reason, found.corrects) == ("stored", None, 1)
        assert (tally.stored, tally.failed, tally.corrected) == (2, 0, 1)
        assert not tally.reasons
    async with checked(tmp_path / "b", PermanentError(Reason.NOT_FOUND, "HTTP 404"), stored=None) as (found, tally):
        assert (found.outcome, found.reason, tally.corrected) == ("failed", Reason.INVALID_REQUEST, 0)


async def test_doubts_outlive_a_run(tmp_path):
    """What a run that died had in doubt, the next one has; what was cleared up is forgotten."""
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        for ids in ({"A"}, {"A", "B", "C"}, {"A", "B"}):
            manifest.note_doubts(ids)
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        assert manifest.doubted == {"A", "B"}
        manifest.note_doubts(set())
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        assert manifest.doubted == set()

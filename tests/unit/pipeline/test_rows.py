"""RowWriter: what happened to an input row, in the manifest's terms."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from bulkfetch.errors import NotReady, PermanentError, Reason, TransientError
from bulkfetch.manifest.rows import decode_row, encode_rows
from bulkfetch.models import Delivery, Malformed, Outcome, PutResult, Row
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.retrying import Effort

BEGAN = datetime(2026, 1, 31, 23, 59, 58, 500_000, tzinfo=UTC)
ENDED = BEGAN + timedelta(seconds=2.3456)
DELIVERY = Delivery("A-1", line=7, fields={"year": "2026"})
HASH = "ab" * 32


def writer(now: datetime = ENDED) -> RowWriter:
    return RowWriter("run-1", lambda: now)


def a_job() -> Job:
    """An invoice that took three tries and two links."""
    effort = Effort(attempts=3, links=2)
    effort.started_at = BEGAN
    return Job(DELIVERY, "2026/A-1.pdf", effort=effort)


def written(row: Row, *, besides: frozenset[str] = frozenset()) -> dict[str, object]:
    """What stands in `row`, the columns `besides` and those that are at their default left out."""
    plain = Row(run="", invoice_id="", outcome=Outcome.STORED, started_at="", finished_at="")
    names = [name for name in Row.__struct_fields__ if name not in besides]
    return {name: getattr(row, name) for name in names if getattr(row, name) != getattr(plain, name)}


INPUT = frozenset({"run", "invoice_id", "outcome", "line", "fields"})
TIMES = frozenset({"started_at", "finished_at", "seconds"})
COST = TIMES | {"attempts", "links"}


def test_every_row_repeats_its_input_row() -> None:
    """Whatever became of it: the run, the ID and the line; the other columns where no other row tells them."""
    rows = [
        writer().stored(a_job(), PutResult("k", "u", 1, HASH)),
        writer().failed(a_job(), PermanentError(Reason.NOT_FOUND, "gone")),
        writer().already_stored(DELIVERY),
        writer().duplicate(DELIVERY, 3),
        writer().unusable(DELIVERY, PermanentError(Reason.INVALID_ROW, "no year")),
    ]
    outcomes = [Outcome.STORED, Outcome.FAILED, Outcome.SKIPPED, Outcome.SKIPPED, Outcome.REJECTED]
    assert [row.outcome for row in rows] == outcomes
    assert {(row.v, row.run, row.invoice_id, row.line) for row in rows} == {(1, "run-1", "A-1", 7)}
    skipped = [row.outcome is Outcome.SKIPPED for row in rows]
    assert [row.fields for row in rows] == [{} if left_out else {"year": "2026"} for left_out in skipped]


def test_a_stored_row_says_all_that_the_store_said() -> None:
    """The object's whole description is in the row, and there is no reason for what was simply stored."""
    result = PutResult(
        "2026/A-1.pdf",
        "s3://b/2026/A-1.pdf",
        9,
        HASH,
        "etag",
        "application/pdf",
        False,
        "v7",
        "COMPLIANCE",
        "2036-01-31",
    )
    assert written(writer().stored(a_job(), result), besides=INPUT | COST) == {
        "key": "2026/A-1.pdf",
        "uri": "s3://b/2026/A-1.pdf",
        "size": 9,
        "sha256": HASH,
        "e_tag": "etag",
        "content_type": "application/pdf",
        "version_id": "v7",
        "lock_mode": "COMPLIANCE",
        "retain_until": "2036-01-31",
    }


def test_an_adopted_object_is_told_from_a_fetched_one() -> None:
    """The object was there already: still `stored`, with the reason `adopted`."""
    row = writer().stored(a_job(), PutResult("k", "u", 1, HASH, adopted=True))
    assert (row.outcome, row.reason) == (Outcome.STORED, Reason.ADOPTED)


def test_a_row_of_a_fetched_invoice_tells_its_cost() -> None:
    """Tries, links, and both ends in UTC, also where the clock is in another zone; seconds to the millisecond."""
    berlin = timezone(timedelta(hours=1))
    assert written(writer(ENDED.astimezone(berlin)).stored(a_job(), PutResult("k", "u", 1, HASH))) == {
        "run": "run-1",
        "invoice_id": "A-1",
        "line": 7,
        "fields": {"year": "2026"},
        "key": "k",
        "uri": "u",
        "size": 1,
        "sha256": HASH,
        "attempts": 3,
        "links": 2,
        "started_at": "2026-01-31T23:59:58.500Z",
        "finished_at": "2026-02-01T00:00:00.845Z",
        "seconds": 2.346,
    }


def test_a_clock_that_is_set_back_gives_no_negative_time() -> None:
    """The wall clock went back an hour while the invoice was in work: it took no time, and both times stand as read."""
    row = writer(BEGAN - timedelta(hours=1)).failed(a_job(), PermanentError(Reason.NOT_FOUND, "gone"))
    assert (row.seconds, row.started_at, row.finished_at) == (
        0.0,
        "2026-01-31T23:59:58.500Z",
        "2026-01-31T22:59:58.500Z",
    )


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (TransientError(Reason.SERVER_ERROR, "500", http_status=500), True),
        (NotReady(Reason.BAD_RESPONSE, "not yet", http_status=425), True),
        (PermanentError(Reason.NOT_FOUND, "404", http_status=404), False),
    ],
    ids=["transient", "not-ready", "permanent"],
)
def test_a_failed_row_says_whether_the_same_command_may_mend_it(error, retryable: bool) -> None:
    """The error's kind decides: transient may be mended, permanent may not; its reason and status are in the row."""
    row = writer().failed(a_job(), error)
    assert row.retryable is retryable
    assert written(row, besides=INPUT | COST | {"retryable"}) == {
        "reason": error.reason,
        "key": "2026/A-1.pdf",
        "http_status": error.http_status,
        "message": str(error),
    }


def test_a_failed_row_says_which_bytes_were_refused() -> None:
    """Size and SHA-256 of a whole body that was refused are in the row: under that name they are in quarantine."""
    row = writer().failed(a_job(), PermanentError(Reason.NOT_PDF, "html", hold=True).about(9, HASH))
    assert (row.size, row.sha256) == (9, HASH)


def test_a_row_that_is_settled_at_once_cost_nothing() -> None:
    """No request was made for it: it began when it ended, with no tries and no links."""
    row = writer().already_stored(DELIVERY)
    assert written(row, besides=INPUT | {"started_at", "finished_at"}) == {"reason": Reason.ALREADY_STORED}
    assert row.started_at == row.finished_at == "2026-02-01T00:00:00.845Z"


def test_a_skipped_row_is_short() -> None:
    """It takes at most 250 bytes for an ID of 40 characters: a nightly list is mostly made of such rows."""
    row = RowWriter("20260131T235958Z-99db71", lambda: ENDED).already_stored(Delivery("9" * 40, line=9_999_999))
    line = encode_rows([row])
    assert len(line) <= 250
    assert decode_row(line.strip()) == Row(**{name: getattr(row, name) for name in Row.__struct_fields__})


@pytest.mark.parametrize(
    ("line", "message"),
    [(3, "duplicate of line 3"), (None, "duplicate earlier in this input")],
    ids=["line", "no-line"],
)
def test_a_duplicate_names_where_the_id_came_first(line: int | None, message: str) -> None:
    """A person who looks for the first one finds its line, where the input has lines."""
    row = writer().duplicate(DELIVERY, line)
    assert (row.outcome, row.reason, row.message) == (Outcome.SKIPPED, Reason.DUPLICATE, message)


def test_a_row_without_a_key_is_rejected_for_its_reason() -> None:
    """Its columns make no key: the error's reason and words, and no key."""
    row = writer().unusable(DELIVERY, PermanentError(Reason.INVALID_ROW, "the column 'year' is empty"))
    assert (row.reason, row.message, row.key) == (Reason.INVALID_ROW, "the column 'year' is empty", None)
    assert not row.retryable


def test_a_malformed_row_keeps_its_raw_text_and_line() -> None:
    """What named no invoice stands in the row as it came (escaped by the source), for a person to find and mend."""
    row = writer().malformed(Malformed("a/b\\u001b", Reason.INVALID_ID, "a slash", line=12))
    assert (row.outcome, row.reason, row.invoice_id) == (Outcome.REJECTED, Reason.INVALID_ID, "a/b\\u001b")
    assert (row.message, row.line, row.fields) == ("a slash", 12, {})


@pytest.mark.parametrize("kind", ["failed", "unusable", "malformed"])
def test_a_message_cannot_steer_a_terminal_nor_grow(kind: str) -> None:
    """Foreign text comes into the manifest escaped, and at most 500 characters of it."""
    foreign = "\x1b[2J\n" + "x" * 600
    row = {
        "failed": lambda: writer().failed(a_job(), TransientError(Reason.SERVER_ERROR, foreign)),
        "unusable": lambda: writer().unusable(DELIVERY, PermanentError(Reason.INVALID_ROW, foreign)),
        "malformed": lambda: writer().malformed(Malformed("raw", Reason.INVALID_ROW, foreign)),
    }[kind]()
    assert row.message is not None
    assert row.message.startswith("\\u001b[2J\\u000ax")
    assert len(row.message) == 500

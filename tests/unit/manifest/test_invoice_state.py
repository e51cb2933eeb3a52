"""The state of an invoice: one fold over all rows, whatever the order and the steps in which they are read."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.rows import summary

from bulkfetch.errors import Reason
from bulkfetch.manifest import LedgerIndex, encode_rows
from bulkfetch.manifest.chain import write_summary
from bulkfetch.manifest.invoice_state import REJECTED_RUN
from bulkfetch.manifest.overview import (
    accepted_gaps,
    count_stored,
    known_ids,
    rejected_rows,
    unresolved_reasons,
)
from bulkfetch.models import Entry, Outcome, Row

RUNS = [f"2025010{day}T000000Z-00000{day}" for day in range(1, 5)]
STORED, FAILED, SKIPPED, REJECTED = Outcome.STORED, Outcome.FAILED, Outcome.SKIPPED, Outcome.REJECTED


def at(second: int) -> str:
    return f"2025-01-31T00:00:{second:02}.000Z"


def row(invoice_id: str, outcome: Outcome, second: int = 0, **more: Any) -> Row:
    object_ = {"key": f"{invoice_id}.pdf", "size": second, "sha256": "ab" * 32} if outcome is STORED else {}
    columns = object_ | more
    return Row(
        run="r", invoice_id=invoice_id, outcome=outcome, started_at=at(second), finished_at=at(second), **columns
    )


def failed(invoice_id: str, second: int = 0, reason: Reason = Reason.TIMEOUT, **more: Any) -> Row:
    return row(invoice_id, FAILED, second, reason=reason, **more)


def accepted(invoice_id: str, second: int, why: str | None = "will not come") -> Row:
    return row(invoice_id, SKIPPED, second, reason=Reason.ACCEPTED, message=why)


def withdrawn(invoice_id: str, second: int) -> Row:
    return row(invoice_id, SKIPPED, second, reason=Reason.WITHDRAWN)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return archive(tmp_path)


def archive(root: Path) -> Path:
    (root / ".bulkfetch").mkdir()
    (root / "manifests").mkdir()
    return root


def write(root: Path, run: str, *rows: Row) -> None:
    with (root / "manifests" / f"{run}.jsonl").open("ab") as file:
        file.write(encode_rows(rows))


def end(root: Path, run: str, *, source: str = "ids.txt", finished: bool = True) -> None:
    result = msgspec.structs.replace(summary(finished=finished), source=source)
    write_summary(root, run, result, manifest=f"{run}.jsonl", rows=0, sha256="")


def whole(ledger: LedgerIndex, ids: Sequence[str]) -> tuple[Any, ...]:
    """All that a ledger says of `ids`, and of all invoices together."""
    return (
        ledger.stored(ids),
        ledger.accepted(ids),
        [ledger.owner(f"{invoice_id}.pdf") for invoice_id in ids],
        sorted(ledger.unresolved(), key=lambda found: found.invoice_id),
        ledger.count_unresolved(),
        ledger.ask(count_stored),
        ledger.ask(accepted_gaps),
        ledger.ask(lambda database: unresolved_reasons(database, None)),
        ledger.ask(lambda database: unresolved_reasons(database, RUNS[:1])),
        ledger.ask(lambda database: rejected_rows(database, None)),
        ledger.ask(lambda database: known_ids(database, ids)),
        sorted(msgspec.json.encode(reject) for reject in ledger.rejects()),
    )


@contextmanager
def opened(root: Path) -> Iterator[LedgerIndex]:
    with closing(LedgerIndex.open(root)) as ledger:
        yield ledger


def told(root: Path, *ids: str) -> tuple[Any, ...]:
    with opened(root) as ledger:
        return whole(ledger, ids)


def unresolved(root: Path) -> dict[str, Reason]:
    with opened(root) as ledger:
        return {found.invoice_id: Reason(found.reason) for found in ledger.unresolved()}


def test_stored_wins_over_failed_and_of_two_the_newest_does(root):
    """Whenever it was stored, the invoice is; and the newest row that says the same is the one that counts."""
    write(root, RUNS[1], row("a", STORED, 5), failed("b", 5, Reason.TIMEOUT))
    write(root, RUNS[0], failed("a", 9), row("a", STORED, 4), failed("b", 6, Reason.NOT_FOUND), failed("b", 4))
    with opened(root) as ledger:
        assert ledger.stored(["a", "b"]) == {"a": Entry("a.pdf", 5, "ab" * 32)}
        (found,) = ledger.unresolved()
    assert (found.invoice_id, found.reason, found.run, found.first_failed_at) == ("b", "not_found", RUNS[0], at(4))


def test_what_is_unresolved_of_some_runs(root):
    """An invoice belongs to the run in which it failed first, and to that in which it failed last."""
    write(root, RUNS[0], failed("a", 1), failed("b", 1), row("c", STORED, 1))
    write(root, RUNS[1], failed("d", 2, Reason.NOT_FOUND))
    write(root, RUNS[2], failed("b", 3, Reason.NOT_FOUND))
    with opened(root) as ledger:

        def of(*runs: str) -> list[tuple[str, int, list[str], str]]:
            found = ledger.ask(lambda database: unresolved_reasons(database, runs))
            return [(each.reason, each.invoices, each.examples, each.since) for each in found]

        assert of(RUNS[0]) == [("not_found", 1, ["b"], at(1)), ("timeout", 1, ["a"], at(1))]
        assert of(RUNS[2]) == [("not_found", 1, ["b"], at(1))]
        assert of(RUNS[1], RUNS[2]) == [("not_found", 2, ["b", "d"], at(1))]
        assert of() == []
        assert ledger.ask(count_stored) == 1
        assert ledger.ask(lambda database: known_ids(database, ["a", "c", "x"])) == {"a", "c"}


@pytest.mark.parametrize("beside", [False, True])
def test_rejected_rows_are_accepted_with_their_run(root, beside):
    """The newest word on the run counts, in whatever order the manifests are read; another run's rejects stay."""
    write(root, RUNS[0], row("a b", REJECTED, 1, reason=Reason.INVALID_ID, line=3))
    end(root, RUNS[0])
    write(root, RUNS[1], row("c d", REJECTED, 1, reason=Reason.INVALID_ID, line=1))
    end(root, RUNS[1], source="other.txt")
    opening = LedgerIndex.beside_others if beside else LedgerIndex.open

    def word(second: int, reason: Reason) -> Row:
        why = "a heading" if reason is Reason.ACCEPTED else None
        return row("a b", SKIPPED, second, reason=reason, message=why, fields={REJECTED_RUN: RUNS[0]})

    with closing(opening(root)) as ledger:
        for run, second, reason, left in (
            (RUNS[2], 5, Reason.ACCEPTED, {"c d"}),
            (RUNS[3], 6, Reason.WITHDRAWN, {"a b", "c d"}),
        ):
            write(root, run, word(second, reason))
            ledger.refresh()
            assert {reject.raw for reject in ledger.rejects()} == left
            assert ledger.ask(accepted_gaps).rejected == 2 - len(left)
            assert ledger.accepted(["a b"]) == {}
    write(root, RUNS[2], word(9, Reason.ACCEPTED))
    with closing(opening(root)) as ledger:
        assert {reject.raw for reject in ledger.rejects()} == {"c d"}


def test_the_row_that_counts_can_be_read_again(root):
    """`run` and `offset` lead to the row with all its columns."""
    write(root, RUNS[0], row("a", STORED), failed("b", fields={"year": "2025"}), failed("c"))
    with opened(root) as ledger:
        found = {each.invoice_id: each for each in ledger.unresolved()}
    data = (root / "manifests" / f"{found['b'].run}.jsonl").read_bytes()
    line = data[found["b"].offset :].split(b"\n")[0]
    assert msgspec.json.decode(line)["fields"] == {"year": "2025"}


def test_a_correction_takes_the_place_of_its_row(root):
    """The object that the corrected row named is no longer the invoice's, be there an older one or not; a new one is,
    and so is one that is stored later."""
    write(root, RUNS[0], row("a", STORED, 1), row("b", STORED, 1))
    write(root, RUNS[1], row("a", STORED, 5), row("b", STORED, 5), row("c", STORED, 5), failed("d", 5))
    wrong = Reason.WRONG_DOCUMENT
    write(root, RUNS[1], failed("a", 6, wrong, corrects=0), row("b", STORED, 6, key="b~2.pdf", corrects=1))
    write(root, RUNS[1], failed("c", 6, wrong, corrects=2))
    assert unresolved(root) == {"a": wrong, "c": wrong, "d": Reason.TIMEOUT}
    with opened(root) as ledger:
        assert {name: entry.key for name, entry in ledger.stored(["a", "b", "c"]).items()} == {"b": "b~2.pdf"}
        assert ledger.owner("b.pdf") is None
    write(root, RUNS[2], row("a", STORED, 7))
    assert set(unresolved(root)) == {"c", "d"}


def test_flags_are_set_and_taken_back(root):
    """The newest word counts, a run that heeds the flag does not set it again, and `stored` beats it."""
    write(root, RUNS[0], failed("a"), failed("b"), row("c", STORED))
    write(root, RUNS[1], *(accepted(name, 2, f"{name} is void") for name in "abcd"))
    write(root, RUNS[2], withdrawn("b", 3))
    write(root, RUNS[3], *(accepted(name, 4, None) for name in "abd"))
    assert unresolved(root) == {"b": Reason.TIMEOUT}
    with opened(root) as ledger:
        assert ledger.accepted(["a", "b", "c", "d", "e"]) == {"a": "a is void", "d": "d is void"}


def test_rejects_go_with_the_sources_next_run(root):
    """They belong to the newest run that read the source to its end; a queue's are its dead letters."""
    reject = row("a;b", REJECTED, reason=Reason.INVALID_ID, line=7)
    write(root, RUNS[0], reject)
    assert told(root)[-1] == []
    end(root, RUNS[0])
    (found,) = told(root)[-1]
    assert msgspec.json.decode(found) == {
        "source": "ids.txt", "run": RUNS[0], "line": 7, "raw": "a;b", "reason": "invalid_id",
    }  # fmt: skip
    write(root, RUNS[1], reject)
    end(root, RUNS[1], source="nats://localhost:4222/invoices")
    write(root, RUNS[2], reject, reject)
    end(root, RUNS[2], finished=False)
    assert told(root)[-1] == [found]
    write(root, RUNS[3], row("a", STORED))
    end(root, RUNS[3])
    assert told(root)[-1] == []
    (root / ".bulkfetch" / "ledger.sqlite3").unlink()
    assert told(root)[-1] == []


def test_a_key_that_cannot_be_made_is_a_state(root):
    """The row names an invoice, so it is unresolved until it is stored."""
    write(root, RUNS[0], row("a", REJECTED, reason=Reason.INVALID_ROW, fields={"year": ""}))
    end(root, RUNS[0])
    end(root, RUNS[1])
    assert unresolved(root) == {"a": Reason.INVALID_ROW}


def test_counts_by_reason_with_the_oldest(root):
    """Each reason has its number and its oldest date, and the oldest reason comes first."""
    write(root, RUNS[0], failed("a", 5, Reason.NOT_FOUND), failed("b", 7, retryable=True), failed("c", 6))
    write(root, RUNS[1], failed("a", 9), failed("d", 4, retryable=True))
    with opened(root) as ledger:
        assert [tuple(msgspec.structs.astuple(count)) for count in ledger.count_unresolved()] == [
            ("timeout", True, 2, at(4)),
            ("timeout", False, 2, at(5)),
        ]


def test_what_is_unresolved_is_found_by_an_index(root):
    """Neither the counts nor a page of the list walk the table of all invoices."""
    write(root, RUNS[0], failed("a"))
    asked: list[str] = []
    with opened(root) as ledger:
        ledger._connection.set_trace_callback(asked.append)
        list(ledger.unresolved())
        ledger.count_unresolved()
        ledger._connection.set_trace_callback(None)
        plans = [
            str(ledger._connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall())
            for query in asked
            if "state <> 'stored'" in query
        ]
    assert len(plans) >= 2
    assert all("invoices_unresolved" in plan and "TEMP B-TREE" not in plan for plan in plans)


IDS = ["a", "b", "c"]


def any_row() -> st.SearchStrategy[Row]:
    ids, seconds = st.sampled_from(IDS), st.integers(0, 3)
    return st.one_of(
        st.builds(lambda name, second: row(name, STORED, second), ids, seconds),
        st.builds(
            lambda name, second, reason: failed(name, second, reason),
            ids, seconds, st.sampled_from([Reason.TIMEOUT, Reason.NOT_FOUND]),
        ),
        st.builds(accepted, ids, seconds, st.sampled_from(["one", "two", None])),
        st.builds(withdrawn, ids, seconds),
        st.builds(lambda name, second: row(name, SKIPPED, second, reason=Reason.DUPLICATE), ids, seconds),
        st.builds(lambda name, second: row(name, REJECTED, second, fields={"x": "y"}, reason=Reason.INVALID_ROW),
                  ids, seconds),
        st.builds(lambda second: row("?", REJECTED, second, reason=Reason.INVALID_ID), seconds),
    )  # fmt: skip


def with_corrections(rows: list[Row], corrected: list[int]) -> list[Row]:
    """`rows`, and corrections of some that are stored, no older than what they correct."""
    more = [
        msgspec.structs.replace(rows[place], outcome=FAILED, reason=Reason.WRONG_DOCUMENT, key=None, corrects=place)
        for place in sorted(set(corrected))
        if place < len(rows) and rows[place].outcome is STORED
    ]
    return [*rows, *more]


MANIFEST = st.builds(with_corrections, st.lists(any_row(), max_size=6), st.lists(st.integers(0, 5), max_size=2))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=15)
@given(st.lists(MANIFEST, min_size=1, max_size=3), st.data())
def test_any_order_and_any_split_give_the_same_ledger(tmp_path_factory, manifests, data):
    """One catch-up over everything, many over its parts in any order, by one process alone or by one beside others,
    and the fold as it is written in the design: all say the same."""
    at_once, in_parts, beside = (archive(tmp_path_factory.mktemp("archive")) for _ in range(3))
    for run, rows in zip(RUNS, manifests, strict=False):
        write(at_once, run, *rows)
        end(at_once, run)
    expected = told(at_once, *IDS)

    left = {run: list(rows) for run, rows in zip(RUNS, manifests, strict=False)}
    overlay = None
    while left:
        run = data.draw(st.sampled_from(sorted(left)))
        taken = data.draw(st.integers(min(1, len(left[run])), len(left[run])))
        part, left[run] = left[run][:taken], left[run][taken:]
        ending = not left[run]
        for root in (in_parts, beside):
            write(root, run, *part)
            if ending:
                end(root, run)
        if ending:
            del left[run]
        told(in_parts)
        if overlay is None:
            overlay = LedgerIndex.beside_others(beside)
        else:
            overlay.refresh()
    assert told(in_parts, *IDS) == expected
    assert overlay is not None
    with closing(overlay):
        assert whole(overlay, IDS) == expected
    assert (expected[0], {each.invoice_id for each in expected[3]}) == by_the_design(manifests)


def by_the_design(manifests: list[list[Row]]) -> tuple[dict[str, Entry], set[str]]:
    """What is stored and what is unresolved, by a fold over all rows in the order (finished_at, run, position)."""
    rows = [(each.finished_at, run, place, each) for run, each_rows in zip(RUNS, manifests, strict=False)
            for place, each in enumerate(each_rows)]  # fmt: skip
    rows.sort(key=lambda each: each[:3])
    stored: dict[str, Entry | None] = {}
    wanted: set[str] = set()
    flags: dict[str, bool] = {}
    for _, _, _, each in rows:
        name = each.invoice_id
        if each.outcome is STORED:
            stored[name] = Entry(str(each.key), each.size or 0, str(each.sha256))
        elif each.corrects is not msgspec.UNSET:
            stored[name] = None
            wanted.add(name)
        elif each.outcome is FAILED or (each.outcome is REJECTED and each.fields):
            wanted.add(name)
    for _, _, _, each in sorted(rows, key=lambda each: (each[0], each[3].reason is Reason.WITHDRAWN)):
        if each.reason is Reason.WITHDRAWN or (each.reason is Reason.ACCEPTED and each.message):
            flags[each.invoice_id] = each.reason is Reason.ACCEPTED
    held = {name: entry for name, entry in stored.items() if entry is not None}
    return held, {name for name in wanted if name not in held and not flags.get(name)}

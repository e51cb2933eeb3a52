"""An answer that nobody asked for is never taken for an answer, whichever host sends it and whenever it comes.

This runs each case twenty times and prints what came of them:
`UNASKED_RUNS=20 pytest -s -n 0 --timeout 3000 tests/e2e/test_unasked.py`
"""

import os
import ssl
import time
from collections import Counter

import pytest
import trustme
from support.fault_server import reply
from support.misbehaving import (
    STRANGER,
    chunked_twice,
    document,
    followed_by,
    half_a_head,
    in_front_of_the_second,
    instead,
    misbehaving,
    off_by_one,
    twice,
    unasked_first,
)
from support.program import all_rows, bulkfetch, objects, started, until, write_ids

from bulkfetch.models import Outcome

RUNS = int(os.environ.get("UNASKED_RUNS", "1"))
IDS = [f"INV-{number:02}" for number in range(12)]


def refusal(status: int) -> bytes:
    """What proxies say to a connection that waits."""
    return reply(status, b"no request", {"Connection": "close"})


CASES = {
    "a stranger's document, glued to each": {"files": followed_by(STRANGER)},
    "a stranger's document, 10 ms after each": {"files": followed_by(0.01, STRANGER)},
    "a stranger's document, 50 ms after each": {"files": followed_by(0.05, STRANGER)},
    "a stranger's document, 200 ms after each": {"files": followed_by(0.2, STRANGER)},
    "a stranger's document, 500 ms after each": {"files": followed_by(0.5, STRANGER)},
    "a stranger's document, chunked": {"files": chunked_twice},
    "half a stranger's head, glued to each": {"files": half_a_head},
    "a stranger's document, in front of each but the first": {"files": in_front_of_the_second(STRANGER, 0.01)},
    "documents off by one": {"files": off_by_one},
    "links off by one": {"api": off_by_one},
    "both off by one": {"api": off_by_one, "files": off_by_one},
    "every link once more, late": {"api": twice},
    "bytes that are no answer, late": {"files": followed_by(0.01, b"trailer\n%%EOF\n")},
    "bytes that are no answer, in front": {"files": in_front_of_the_second(b"trailer\n%%EOF\n", 0.01)},
    "nothing but an end": {"api": instead(), "files": instead()},
    **{
        f"an unasked {status}, {when}, from the {host}": {host: manner}
        for status in (400, 408, 503)
        for host in ("api", "files")
        for when, manner in {
            "while nothing is asked": followed_by(0.01, refusal(status)),
            "in place of an answer": instead(refusal(status)),
            "in front of an answer": in_front_of_the_second(reply(status, b"no request"), 0.02),
        }.items()
        if status != 503 or when != "in front of an answer"
    },
}


def judge(root, hosts, done):
    """What came of one run: `right`, or what was wrong with it."""
    rows = all_rows(root)
    newest = {row.invoice_id: row for row in rows}
    held = objects(root)
    wrong = [i for i, row in newest.items() if row.outcome is Outcome.STORED and held.get(row.key) != document(i)]
    charged = [row.invoice_id for row in rows if not isinstance(row.corrects, int) and row.attempts > 1]
    if done.returncode or wrong or charged or len(newest) != len(IDS):
        return f"exit {done.returncode}, wrong {wrong}, charged {charged}: {done.stderr[-300:]}"
    return "right"


@pytest.mark.timeout(60 + 20 * RUNS)
@pytest.mark.parametrize("case", CASES)
def test_every_invoice_gets_its_own_document(tmp_path, case):
    """Exit 0, the right document for every invoice, none of them charged with a second try."""
    came = Counter()
    for run in range(RUNS):
        ids = write_ids(tmp_path / "ids.txt", IDS)
        with misbehaving(**CASES[case]) as hosts:
            root = tmp_path / str(run)
            done = bulkfetch("run", ids, "--to", root, "--api-url", hosts.api, BULKFETCH_LIMITS_WORKERS="2")
            came[judge(root, hosts, done)] += 1
    print(f"{came['right']:3} of {RUNS} right: {case}")
    assert came == {"right": RUNS}


def test_a_host_that_talks_first_is_not_believed(tmp_path):
    """Where an answer comes before any request, on every connection, no document is taken on trust: exit 4."""
    ids = write_ids(tmp_path / "ids.txt", IDS)
    with misbehaving(files=unasked_first(STRANGER)) as hosts:
        done = bulkfetch("run", ids, "--to", tmp_path / "a", "--api-url", hosts.api, BULKFETCH_RETRY_ATTEMPTS="2")
    assert done.returncode == 4, done.stderr
    assert {row.outcome for row in {row.invoice_id: row for row in all_rows(tmp_path / "a")}.values()} == {"failed"}
    assert objects(tmp_path / "a") == {}


def test_over_tls_it_is_the_same(tmp_path):
    """TLS has buffers of its own: a late answer in them is found as well."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ids = write_ids(tmp_path / "ids.txt", IDS)
    for number, manner in enumerate((followed_by(0.01, STRANGER), off_by_one)):
        with misbehaving(files=manner, tls=context) as hosts:
            root = tmp_path / str(number)
            done = bulkfetch(
                "run", ids, "--to", root, "--api-url", hosts.api,
                BULKFETCH_LIMITS_WORKERS="2", SSL_CERT_FILE=str(tmp_path / "ca.pem"),
            )  # fmt: skip
        assert judge(root, hosts, done) == "right"


def at_rest(file):
    """Whether `file` is a moment old: doubts that come together may be written one after the other."""
    try:
        return time.time() - file.stat().st_mtime > 0.05
    except FileNotFoundError:
        return False


def test_what_was_in_doubt_when_a_run_was_killed_is_cleared_up_by_the_next(tmp_path):
    """kill -9 once a host has been seen to misbehave: the same command again ends with every invoice's own document."""
    ids, root = write_ids(tmp_path / "ids.txt", IDS), tmp_path / "archive"

    async def once(talk):
        await talk.say(first := await talk.next())
        await talk.say(first + await talk.next(), 60.0)

    with misbehaving(files=once) as hosts:
        with started("run", ids, "--to", root, "--api-url", hosts.api, BULKFETCH_LIMITS_WORKERS="2") as process:
            until(lambda: any(at_rest(file) for file in (root / ".bulkfetch").glob("doubts-*[!t]")), process)
        assert process.returncode == -9
    with misbehaving() as hosts:
        done = bulkfetch("run", ids, "--to", root, "--api-url", hosts.api)
        assert judge(root, hosts, done) == "right"
    assert not list((root / ".bulkfetch").glob("doubts-*"))

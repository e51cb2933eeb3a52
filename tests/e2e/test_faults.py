"""`bulkfetch run` against servers that fail: what is overcome, what is given up, and what stops the run."""

import shutil
from collections import Counter

import pytest
from aiohttp import web
from support.program import bulkfetch, http_server, ids_of, objects, pdf_of, rows, sandbox, summary, write_ids

from bulkfetch.pipeline.canary import CANARY_IN_FLIGHT, CANARY_OUTCOMES
from bulkfetch.sandbox.invoices import InvoiceBook
from bulkfetch.sandbox.pdf import render


def test_passing_faults_cost_nothing(tmp_path):
    """5 % server errors, a rate limit, cut downloads and dead links: everything arrives, and the files port never sees
    the token."""
    # Three dead links in a row end an invoice: rare enough here never to be met by chance.
    faults = {"errors": 0.05, "truncate": 0.05, "expire": 0.01}
    with sandbox(invoices=150, faults=faults, rate_limit=150, seed=3) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        done = bulkfetch("run", source, "--to", dest, "--api-url", served.api_url)
        assert done.returncode == 0, done.stderr
        assert objects(dest) == {f"{invoice_id}.pdf": pdf_of(served, invoice_id) for invoice_id in ids_of(served)}
        stats = served.stats
    assert min(stats.errors_5xx, stats.truncated) >= 1
    assert stats.authorization_leaks == stats.forged == 0
    requests = summary(dest).requests
    assert requests["links"].sent == stats.puts.total()
    met = sum(made.refused + made.failed for made in requests.values())
    assert met == stats.refused_429 + stats.errors_5xx + stats.truncated + stats.expired
    for made in requests.values():
        assert made.sent == made.answered + made.refused + made.failed + made.abandoned
    assert max(row.links for row in rows(dest)) > 1


def test_what_fails_for_good_is_told_and_harms_nothing_else(tmp_path):
    """Unknown IDs and drafts end as rows `failed` with the API's status, everything else is stored: exit code 3."""
    with sandbox(invoices=120, faults={"not_found": 0.1}, drafts=0.1) as served:
        ids, book = ids_of(served), served.book
        source, dest = write_ids(tmp_path / "ids.txt", ids), tmp_path / "archive"
        done = bulkfetch("run", source, "--to", dest, "--api-url", served.api_url)
    documents = {invoice_id: book.find(invoice_id) for invoice_id in ids}
    missing = {i for i, document in documents.items() if document is None}
    drafts = {i for i, document in documents.items() if document and document.draft}
    assert missing
    assert drafts
    assert done.returncode == 3, done.stderr
    by_reason = Counter((row.outcome, row.reason, row.http_status, row.retryable) for row in rows(dest))
    assert by_reason == {
        ("failed", "not_found", 404, False): len(missing),
        ("failed", "unprocessable", 422, False): len(drafts),
        ("stored", None, None, False): len(ids) - len(missing) - len(drafts),
    }
    assert {row.invoice_id for row in rows(dest) if row.reason == "not_found"} == missing
    assert all(row.attempts == 1 for row in rows(dest))
    assert objects(dest).keys() == {f"{invoice_id}.pdf" for invoice_id in set(ids) - missing - drafts}
    assert (summary(dest).finished, summary(dest).complete) == (True, False)
    assert f"finished, but not complete: {len(missing) + len(drafts)} failed  120 rows" in done.stderr


@pytest.mark.parametrize("where", ["wrong base URL", "wrong organisation"])
def test_a_run_that_cannot_be_right_stops_early(tmp_path, where):
    """Where every answer is 404, the run stops after about twenty of them, and marks no invoice as failed for it."""
    with sandbox(invoices=150, faults={"not_found": 1.0}) as served:
        url = served.api_url + ("/v1" if where == "wrong base URL" else "")
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        done = bulkfetch("run", source, "--to", dest, "--api-url", url)
        assert done.returncode == 5, done.stderr
        assert "api.url" in done.stderr
    assert rows(dest) == []
    assert CANARY_OUTCOMES <= summary(dest).requests["links"].sent < CANARY_OUTCOMES + CANARY_IN_FLIGHT
    assert (summary(dest).finished, summary(dest).complete) == (False, False)


def test_a_refused_token_fails_no_invoice(tmp_path):
    """401 is about the token: the run stops without a row, and says nothing of an empty input."""
    with sandbox(token="the right one") as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        done = bulkfetch("run", source, "--to", dest, "--api-url", served.api_url, token="wrong")
        assert served.stats.puts.total() <= CANARY_IN_FLIGHT
    assert done.returncode == 5
    assert "the API refuses the token" in done.stderr
    assert "holds no invoice" not in done.stderr
    assert rows(dest) == []
    assert summary(dest).stopped_by


def test_a_token_from_a_command_is_renewed(tmp_path):
    """A token that is refused is fetched again, once for all workers, and the run goes on."""
    counter = tmp_path / "calls"
    script = f"echo x >> {counter}; test $(wc -l < {counter}) -gt 1 && echo fresh || echo stale"
    config = tmp_path / "c.toml"
    with sandbox(token="fresh") as served:
        config.write_text(f'[api]\nurl = "{served.api_url}"\ntoken_command = ["/bin/sh", "-c", "{script}"]\n')
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        done = bulkfetch("run", source, "--to", dest, "-c", config, token=None)
    assert done.returncode == 0, done.stderr
    assert counter.read_text().count("x") == 2
    assert summary(dest).counts.stored == len(ids_of(served))


def test_an_outage_is_charged_to_no_invoice(tmp_path):
    """Nothing listens: after limits.max_outage the run stops, and no invoice is marked as failed."""
    with sandbox() as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
    done = bulkfetch("run", source, "--to", dest, "--api-url", served.api_url, BULKFETCH_LIMITS_MAX_OUTAGE="0.3")
    assert done.returncode == 5, done.stderr
    assert "out of service" in done.stderr
    assert rows(dest) == []
    assert (summary(dest).finished, summary(dest).complete) == (False, False)


def test_an_invoice_that_keeps_failing_is_parked_and_tried_once_more(tmp_path):
    """A server error that sticks to one invoice ends as a retryable failure after a second pass: exit code 4."""
    book = InvoiceBook(40, 1, size=5_000)
    ids = list(book.ids())
    asked: list[str] = []

    async def serve(request):
        invoice_id = request.path.split("/")[2]
        if request.method == "PUT":
            asked.append(invoice_id)
            if invoice_id == ids[5]:
                return web.json_response({"title": "no"}, status=500)
            return web.json_response({"url": f"http://{request.host}/files/{invoice_id}"})
        return web.Response(body=render(book.find(invoice_id)), content_type="application/pdf")

    source, dest = write_ids(tmp_path / "ids.txt", ids), tmp_path / "archive"
    with http_server(serve) as url:
        done = bulkfetch("run", source, "--to", dest, "--api-url", url, "--attempts", "3")
    assert done.returncode == 4, done.stderr
    (failed,) = [row for row in rows(dest) if row.outcome == "failed"]
    assert (failed.invoice_id, failed.reason, failed.http_status) == (ids[5], "server_error", 500)
    assert (failed.retryable, failed.attempts, failed.links) == (True, 6, 0)
    assert asked.count(ids[5]) == 6
    assert asked[-3:] == [ids[5]] * 3, "the second pass comes when everything else is done"
    assert len(objects(dest)) == 39
    assert summary(dest).counts.stored == 39


def test_a_few_invoices_that_always_fail_are_no_outage(tmp_path):
    """Ten invoices that always get a 500 end as rows `failed`, retryable, and exit 4: alone in the second pass, they do
    not look like a server that is down."""
    book = InvoiceBook(150, 0)
    ids = list(book.ids())
    broken = set(ids[20:120:10])

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        invoice_id = request.path.split("/")[2]
        if request.method == "PUT":
            if invoice_id in broken:
                return web.Response(status=500)
            return web.json_response({"url": f"http://{request.host}/files/{invoice_id}"})
        document = book.find(invoice_id)
        assert document
        return web.Response(body=render(document), content_type="application/pdf")

    with http_server(answer) as url:
        source, dest = write_ids(tmp_path / "ids.txt", ids), tmp_path / "archive"
        done = bulkfetch("run", source, "--to", dest, "--api-url", url)
    assert done.returncode == 4, done.stderr
    failed = [row for row in rows(dest) if row.outcome == "failed"]
    assert {row.invoice_id for row in failed} == broken
    assert all(row.retryable and row.reason == "server_error" and row.attempts == 10 for row in failed)
    assert (summary(dest).finished, summary(dest).complete) == (True, False)


def test_a_body_that_is_never_a_pdf_is_held(tmp_path):
    """Bytes that are no PDF are kept aside, never under a final name, and once for all nights, by the SHA-256 that the
    rows have; in a second run they are a failure for good. A full quarantine is told, and harms nothing."""
    with sandbox(invoices=8, faults={"not_pdf": 1.0}) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        args = ("run", source, "--to", dest, "--api-url", served.api_url, "--attempts", "2")
        for room, exit_code in (("1 GiB", 4), ("1 GiB", 3), ("10", 3)):
            full = room == "10"
            if full:
                shutil.rmtree(dest / ".bulkfetch" / "quarantine")  # as the README says
            done = bulkfetch(*args, BULKFETCH_LIMITS_QUARANTINE=room)
            assert done.returncode == exit_code, done.stderr
            assert done.stderr.count("limits.quarantine") == full
            found = rows(dest)
            told = Counter((row.outcome, row.reason, row.retryable) for row in found)
            assert told == {("failed", "not_pdf", exit_code == 4): 8}
            held = {path.name: path.read_bytes() for path in (dest / ".bulkfetch" / "quarantine").iterdir()}
            assert set(held) == (set() if full else {row.sha256 for row in found})
            assert all(body.startswith(b"<?xml") for body in held.values())
            assert all(row.size == len(held[row.sha256]) for row in found if not full)
    assert objects(dest) == {}

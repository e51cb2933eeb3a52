"""Two invoices that come to one name, and objects that are there before: the store is the arbiter, and no invoice is
merged with another. On a directory, on a disk that is blind to case, and in a bucket."""

import hashlib
from functools import partial
from pathlib import Path

import anyio
import pytest
from support.archives import Archive
from support.pdfs import pdf_bytes

from bulkfetch.app import plan_archive
from bulkfetch.config import Config, Destination
from bulkfetch.keys import KeyTemplate
from bulkfetch.models import Delivery, Outcome, Row
from bulkfetch.pipeline import siblings
from bulkfetch.pipeline.tally import NAME_TAKEN

pytestmark = pytest.mark.anyio

BY_ID, BY_NUMBER = "{id}.pdf", "{fields[year]}/{fields[number]}.pdf"
ONE, TWO = pdf_bytes(text="one"), pdf_bytes(text="two")
NUMBERED = {"year": "2024", "number": "R-1"}
NAME = "2024/R-1.pdf"


def numbered(*ids: str, **fields: str) -> list[Delivery]:
    return [Delivery(invoice_id, line, NUMBERED | fields) for line, invoice_id in enumerate(ids, 1)]


def ids(*names: str, **more) -> list[Delivery]:
    return [Delivery(name, line, **more) for line, name in enumerate(names, 1)]


def other_name(invoice_id: str, template: str = BY_NUMBER, **fields: str) -> str:
    """The name with a digest of an invoice."""
    return KeyTemplate.parse(template).alternative(invoice_id, NUMBERED | fields)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for whom no test lets come."""
    monkeypatch.setattr(siblings, "ROW_SECONDS", 0.2)


@pytest.fixture(params=["directory", "seaweedfs"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    """An empty archive of either kind."""
    return Archive(tmp_path / "archive", request.getfixturevalue("seaweed") if request.param == "seaweedfs" else None)


@pytest.fixture
def folded(folding: Path) -> Archive:
    """An empty archive on a disk that is blind to case."""
    return Archive(folding)


@pytest.mark.parametrize("documents", [{"A-1": ONE, "A-2": TWO}, {"A-1": ONE, "A-2": ONE}], ids=["differ", "equal"])
async def test_two_invoices_under_one_key_are_both_stored(archive: Archive, documents) -> None:
    """One has the name, the other a name with a digest, also if their bytes are equal; its row, and the count of such
    rows, say so."""
    run = await archive.run(BY_NUMBER, numbered("A-1", "A-2"), documents)

    rows = run.rows.values()
    assert [row.outcome for row in rows] == [Outcome.STORED] * 2
    [second] = [row for row in rows if row.key != NAME]
    [first] = [row for row in rows if row is not second]
    assert second.key == other_name(second.invoice_id)
    assert second.message.startswith(f"{NAME_TAKEN}{NAME} is ")
    assert (first.message, first.reason, second.reason) == (None, None, None)
    assert archive.objects() == {row.key: documents[row.invoice_id] for row in rows}
    assert run.pool.tally.names_taken == 1
    assert sorted(run.asked) == ["A-1", "A-2"], "nothing is downloaded twice"


async def test_the_other_order_the_next_night_changes_nothing(archive: Archive) -> None:
    """Each keeps its name, whichever comes first, and without a ledger, too: nothing is asked for again."""
    documents = {"A-1": ONE, "A-2": TWO}
    await archive.run(BY_NUMBER, numbered("A-1", "A-2"), documents)
    there = archive.objects()
    for lost in (False, True):
        if lost:
            archive.lose_ledger()
        again = await archive.run(BY_NUMBER, numbered("A-2", "A-1"), documents)
        assert {row.reason for row in again.rows.values()} == {"already_stored"}
        assert {row.message for row in again.rows.values()} == {None}
        assert again.asked == []
        assert archive.objects() == there


async def test_a_first_owner_that_failed_finds_its_name_taken(archive: Archive) -> None:
    """The invoice that was first in the list failed, so the other has the name; it keeps it when the first one comes,
    with a ledger or without."""
    await archive.run(BY_NUMBER, numbered("A-1", "A-2"), {"A-1": None, "A-2": TWO})
    archive.lose_ledger()
    run = await archive.run(BY_NUMBER, numbered("A-1", "A-2"), {"A-1": ONE, "A-2": TWO})

    assert run.rows["A-1"].key == other_name("A-1")
    assert run.rows["A-1"].message == f"{NAME_TAKEN}{NAME} is that of invoice A-2"
    assert run.rows["A-2"].reason == "already_stored"
    assert archive.objects() == {NAME: TWO, other_name("A-1"): ONE}


async def test_a_crash_between_object_and_row_is_mended_in_every_template(archive: Archive) -> None:
    """An object that a dead run left without a row is that of the invoice whose bytes it has; one with other bytes is
    nobody's, so the invoice takes a name with a digest, and its own object there is adopted after another crash."""
    archive.plant(NAME, ONE)
    run = await archive.run(BY_NUMBER, numbered("A-1"), {"A-1": ONE})
    assert run.told() == {"A-1": ("stored", "adopted", NAME)}

    archive.plant("2024/R-2.pdf", TWO)
    archive.plant(other_name("A-2", number="R-2"), ONE)
    run = await archive.run(BY_NUMBER, numbered("A-2", number="R-2"), {"A-2": ONE})
    assert run.told() == {"A-2": ("stored", "adopted", other_name("A-2", number="R-2"))}
    assert run.rows["A-2"].message == f"{NAME_TAKEN}2024/R-2.pdf is an object that no row names"
    assert archive.objects()["2024/R-2.pdf"] == TWO


async def test_an_object_without_a_row_is_adopted_by_one_invoice_alone(archive: Archive) -> None:
    """Two invoices with equal bytes meet an object that nobody names: it becomes that of one of them at the most."""
    archive.plant(NAME, ONE)
    run = await archive.run(BY_NUMBER, numbered("A-1", "A-2"), {"A-1": ONE, "A-2": ONE})
    keys = [row.key for row in run.rows.values()]
    assert len(set(keys)) == 2
    assert set(keys) <= {NAME, other_name("A-1"), other_name("A-2")}
    assert {row.outcome for row in run.rows.values()} == {Outcome.STORED}


@pytest.mark.parametrize("between", ["nothing", "a complete run over another list"])
async def test_an_object_without_a_row_meets_a_document_that_is_rendered_anew(archive: Archive, between: str) -> None:
    """Where a name can only be one invoice's, a whole PDF that no row names is adopted though the bytes that come are
    others, and the row says so; whatever ended complete before. Nothing is kept aside."""
    if between != "nothing":
        await archive.run(BY_ID, ids("another"), {"another": ONE})
    archive.plant("INV-1.pdf", ONE)
    run = await archive.run(BY_ID, ids("INV-1"), {"INV-1": TWO})
    assert run.told() == {"INV-1": ("stored", "adopted", "INV-1.pdf")}
    assert run.rows["INV-1"].sha256 == digest(ONE)
    if between != "nothing":
        assert digest(TWO)[:12] in run.rows["INV-1"].message
        assert run.asked == ["INV-1"]
    assert archive.objects()["INV-1.pdf"] == ONE
    assert list(archive.root.rglob("quarantine/*")) == []


@pytest.mark.parametrize("there", [b"somebody's notes", ONE[:-9]], ids=["no PDF", "half a PDF"])
async def test_what_is_no_whole_pdf_is_a_conflict_for_the_one_whose_name_it_is(archive: Archive, there: bytes) -> None:
    """It stays, and the new bytes are kept aside; in another template the invoice takes a name with a digest."""
    archive.plant("INV-1.pdf", there)
    archive.plant(NAME, there)
    run = await archive.run(BY_ID, ids("INV-1"), {"INV-1": ONE})
    assert run.told() == {"INV-1": ("failed", "conflict", "INV-1.pdf")}
    [kept] = [path for path in archive.root.rglob("quarantine/*") if path.is_file()]
    assert kept.read_bytes() == ONE
    run = await archive.run(BY_NUMBER, numbered("A-1"), {"A-1": ONE})
    assert run.told() == {"A-1": ("stored", None, other_name("A-1"))}
    assert archive.objects() == {"INV-1.pdf": there, NAME: there, other_name("A-1"): ONE}


async def test_what_a_row_names_with_other_content_is_a_conflict(tmp_path: Path) -> None:
    """A row says what is under the invoice's name; where that is something else now, the run does not believe it,
    however whole a PDF it is."""
    directory = Archive(tmp_path / "archive")
    await directory.run(BY_ID, ids("INV-1"), {"INV-1": ONE})
    directory.plant("INV-1.pdf", pdf_bytes(text="forged, and of another size"))
    run = await directory.run(BY_ID, ids("INV-1"), {"INV-1": TWO})
    assert run.told() == {"INV-1": ("failed", "conflict", "INV-1.pdf")}


async def test_a_key_that_another_template_gave_away_stays_its_owners(archive: Archive) -> None:
    """The invoice that an older template gave the name keeps it, and says so; who has it by the new template takes a
    name with a digest, though that template gives no name twice."""
    await archive.run("{fields[number]}.pdf", numbered("77"), {"77": ONE})
    run = await archive.run(BY_ID, [*numbered("77"), Delivery("R-1", 2)], {"R-1": ONE})
    assert run.rows["77"].reason == "already_stored"
    assert run.rows["77"].message == "stays under R-1.pdf; its key would now be 77.pdf"
    assert run.rows["R-1"].key == other_name("R-1", BY_ID)
    assert run.rows["R-1"].message == f"{NAME_TAKEN}R-1.pdf is that of invoice 77"
    assert archive.objects() == {"R-1.pdf": ONE, other_name("R-1", BY_ID): ONE}


async def test_a_corrected_date_moves_nothing(archive: Archive) -> None:
    """What is stored stays where it is, and the row says where it would go today."""
    template = "{fields[date]:%Y/%m}/{id}.pdf"
    await archive.run(template, [Delivery("A-1", 1, {"date": "31.12.2024"})], {"A-1": ONE})
    run = await archive.run(template, [Delivery("A-1", 1, {"date": "01.01.2025"})], {})
    assert run.rows["A-1"].message == "stays under 2024/12/A-1.pdf; its key would now be 2025/01/A-1.pdf"
    assert (run.asked, list(archive.objects())) == ([], ["2024/12/A-1.pdf"])


async def test_two_spellings_are_two_names_where_they_can_be(archive: Archive) -> None:
    """Two workers store `A` and `a` at once, in a directory and in a bucket alike."""
    await _two_workers(archive)
    assert set(archive.objects()) == {"A.pdf", "a.pdf"}


async def test_two_spellings_meet_on_a_blind_disk(folded: Archive) -> None:
    """Two workers store `A` and `a` at once: one has the name as it is written, the other one with a digest; the next
    night finds both, also in the other order and without a ledger."""
    runs = await _two_workers(folded)
    keys = {invoice_id: row.key for run in runs for invoice_id, row in run.rows.items()}
    names = {"A": "A.pdf", "a": "a.pdf"}
    [kept] = [invoice_id for invoice_id in names if keys[invoice_id] == names[invoice_id]]
    [other] = set(names) - {kept}
    assert keys[other] == KeyTemplate.parse(BY_ID).alternative(other, {})
    assert folded.objects() == {keys["A"]: ONE, keys["a"]: TWO}
    assert sum(run.pool.tally.names_taken for run in runs) == 1
    folded.lose_ledger()
    again = await folded.run(BY_ID, ids("a", "A"), {})
    assert {row.reason for row in again.rows.values()} == {"already_stored"}


async def _two_workers(archive: Archive):
    """Two workers of a queue, each with one of `A` and `a`, whose documents differ."""
    runs = []

    async def work(worker: Archive, name: str, document: bytes) -> None:
        runs.append(await worker.run(BY_ID, ids(name), {name: document}, shared=True))

    workers = [archive, archive]
    if archive.in_bucket:
        workers[1] = archive.elsewhere()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, workers[0], "A", ONE)
        tasks.start_soon(work, workers[1], "a", TWO)
    return runs


async def test_another_spellings_object_is_not_adopted(folded: Archive) -> None:
    """An object without a row that is spelt otherwise is another invoice's, whatever its bytes; under its own spelling
    it is found after a crash."""
    folded.plant("a.pdf", ONE)
    run = await folded.run(BY_ID, ids("A"), {"A": ONE})
    name = KeyTemplate.parse(BY_ID).alternative("A", {})
    assert run.told() == {"A": ("stored", None, name)}
    assert run.rows["A"].message == f"{NAME_TAKEN}this disk takes A.pdf for a.pdf"
    run = await folded.run(BY_ID, ids("a"), {"a": TWO})
    assert run.told() == {"a": ("stored", "adopted", "a.pdf")}
    assert folded.objects() == {"a.pdf": ONE, name: ONE}


async def test_a_folder_in_another_spelling_is_used_as_it_is(folded: Archive) -> None:
    """The key in the row is where the object is; a folder that the run makes is spelt as the row spells it."""
    template = "{fields[of]}/{id}.pdf"
    folded.plant("Müller GmbH/old.pdf", ONE)
    rows = [
        Delivery("1", 1, {"of": "MÜLLER GMBH"}),
        Delivery("2", 2, {"of": "Ärzte"}),
        Delivery("3", 3, {"of": "ärzte"}),
    ]
    run = await folded.run(template, rows, {"1": ONE, "2": ONE, "3": TWO}, workers=1)
    assert [run.rows[name].key for name in "123"] == ["Müller GmbH/1.pdf", "Ärzte/2.pdf", "Ärzte/3.pdf"]
    assert run.pool.tally.names_taken == 0
    assert set(folded.objects()) == {"Müller GmbH/old.pdf", "Müller GmbH/1.pdf", "Ärzte/2.pdf", "Ärzte/3.pdf"}
    again = await folded.run(template, rows, {})
    assert {row.reason for row in again.rows.values()} == {"already_stored"}
    assert {row.message for row in again.rows.values()} == {None}


async def test_a_plan_tells_which_names_a_blind_disk_takes_for_one(folded: Archive, tmp_path: Path) -> None:
    """Both a name that is there in another spelling and two new ones are told before the run, with what they get."""
    await folded.run(BY_ID, ids("a"), {"a": ONE})
    source = tmp_path / "ids.txt"
    await anyio.Path(source).write_text("A\na\nB\nb\n")
    config = Config(destination=Destination(url=str(folded.root)))
    planned = partial(plan_archive, config, source=str(source), environ={}, show_keys=9)
    plan = await anyio.to_thread.run_sync(planned)
    assert (plan.to_fetch, plan.already_stored, plan.names_taken) == (3, 1, 2)
    template = KeyTemplate.parse(BY_ID)
    assert [(each.key, each.note) for each in plan.keys] == [
        (template.alternative("A", {}), "this disk takes A.pdf for a.pdf"),
        ("B.pdf", None),
        (template.alternative("b", {}), "b.pdf is that of line 3"),
    ]
    run = await folded.run(BY_ID, ids("A", "a", "B", "b"), dict.fromkeys("AaBb", ONE))
    assert run.pool.tally.names_taken == plan.names_taken


async def test_a_row_of_another_run_comes_behind_its_object(archive: Archive, monkeypatch) -> None:
    """A worker whose object is there but whose row is still to come is waited for: its invoice is not fetched into
    another name, and another invoice with equal bytes is not taken for it."""
    monkeypatch.setattr(siblings, "ROW_SECONDS", 8.0)
    elsewhere = archive.elsewhere() if archive.in_bucket else archive
    archive.plant(NAME, ONE)
    runs = {}

    async def work(name: str) -> None:
        runs[name] = await archive.run(BY_NUMBER, numbered(name), {name: ONE}, shared=True)

    async with elsewhere.opened(shared=True) as (manifest, _, _, run, _), anyio.create_task_group() as tasks:
        tasks.start_soon(work, "A-2")
        await anyio.sleep(1.0)
        await manifest.append([
            Row(run=run, invoice_id="A-1", outcome=Outcome.STORED, key=NAME, size=len(ONE), sha256=digest(ONE),
                started_at="", finished_at="")
        ])  # fmt: skip
    assert runs["A-2"].told() == {"A-2": ("stored", None, other_name("A-2"))}
    assert runs["A-2"].rows["A-2"].message == f"{NAME_TAKEN}{NAME} is that of invoice A-1"


async def test_a_second_delivery_of_one_invoice_is_not_stored_under_another_name(archive: Archive) -> None:
    """A queue hands an invoice out twice, and each download has other bytes: the second one finds the first one's row,
    in a template that could give its name to others."""
    documents = {"A-1": ONE}
    await archive.run(BY_NUMBER, numbered("A-1"), documents, shared=True)
    rows = numbered("A-1", "A-1")
    run = await archive.run(BY_NUMBER, rows, {"A-1": TWO}, shared=True)
    assert {row.reason for row in run.rows.values()} == {"already_stored"}
    assert list(archive.objects()) == [NAME]

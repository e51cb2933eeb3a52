"""The installed command reads archives back, on a disk and in a bucket: each planted damage is found and named."""

import hashlib
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from support.bucket_archive import PREFIX, content, machine
from support.program import bulkfetch, ids_of, sandbox, write_ids
from support.runs import accept

SCHEMAS = {
    name: json.loads((Path(__file__).parents[2] / "docs/schema" / f"{name}.schema.json").read_text("utf-8"))
    for name in ("finding", "verification")
}
REGISTRY = Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An archive of two runs, and its list."""
    base = tmp_path_factory.mktemp("made")
    with sandbox(invoices=30) as served:
        ids = write_ids(base / "ids.txt", ids_of(served))
        some = write_ids(base / "some.txt", ids_of(served)[:10])
        for source in (some, ids):
            done = bulkfetch("run", source, "--to", base / "archive", "--api-url", served.api_url)
            assert done.returncode == 0, done.stderr
    return base / "archive", done.stderr


@pytest.fixture
def archive(made, tmp_path):
    """A copy of it that may be spoilt."""
    return Path(shutil.copytree(made[0], tmp_path / "archive"))


def verify(archive, *flags, **environ):
    """Exit code, the findings as (kind, key), and the outcome, of a verification that keeps to the schemas."""
    done = bulkfetch("verify", archive, "--json", *flags, **environ)
    *findings, outcome = [json.loads(line) for line in done.stdout.splitlines()] or [{}]
    for name, record in [*(("finding", each) for each in findings), ("verification", outcome)]:
        problems = [
            error.message for error in Draft202012Validator(SCHEMAS[name], registry=REGISTRY).iter_errors(record)
        ]
        assert problems == [], (done.stderr, record)
    return done.returncode, [(each["finding"], each["key"]) for each in findings], outcome


def pdfs(archive):
    return sorted(archive.glob("*.pdf"))


def flip(path, at=100):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_sound_archive_is_verified_and_says_so(archive):
    """All is read, nothing is found, exit 0; what was done is kept. An archive without our state is read, too."""
    code, findings, outcome = verify(archive)
    assert (code, findings) == (0, [])
    assert (outcome["objects"], outcome["checked"], outcome["read"], outcome["kind"]) == (30, 30, 30, "full")
    assert outcome["bytes"] == sum(path.stat().st_size for path in pdfs(archive))
    assert json.loads((archive / ".bulkfetch/verification.json").read_text()) == outcome
    shutil.rmtree(archive / ".bulkfetch")
    assert verify(archive)[:2] == (0, [])
    assert not (archive / ".bulkfetch").exists()


def test_each_damage_to_objects_is_found_and_told_apart(archive):
    """A flipped byte, a cut file, a missing one, a moved one and a symlink: each by its kind; a quick look sees all but
    the flipped byte. What is our own, and what is ignored, is nobody's."""
    first, second, third, fourth = pdfs(archive)[:4]
    flip(first)
    second.write_bytes(second.read_bytes()[:-1])
    third.unlink()
    fourth.rename(archive / "elsewhere.pdf")
    fourth.symlink_to("elsewhere.pdf")
    (archive / "sub").mkdir()
    (archive / "sub/extra.txt").write_text("x")
    (archive / "lost+found").mkdir()
    (archive / "lost+found/x").write_text("x")
    (archive / ".bulkfetch/x").write_text("x")
    rest = [("damaged", second.name), ("extra", "sub/extra.txt")]
    rest += [("missing", third.name), ("missing", fourth.name), ("extra", "elsewhere.pdf")]
    code, findings, outcome = verify(archive)
    assert code == 6
    assert sorted(findings) == sorted([("damaged", first.name), *rest])
    assert (outcome["missing"], outcome["damaged"], outcome["extra"], outcome["unmended"]) == (2, 2, 2, 6)
    code, findings, outcome = verify(archive, "--quick")
    assert (code, sorted(findings)) == (6, sorted(rest))
    assert outcome["unmended"] == 6, "what a quick look cannot see is not forgotten"
    text = bulkfetch("verify", archive).stderr
    assert f"damaged: {first.name}" in text


def test_what_is_ignored_is_no_extra(archive):
    """A pattern of keys, and a folder, are left out on demand; then nothing is wrong."""
    (archive / "notes.tmp").write_text("x")
    (archive / "snap").mkdir()
    (archive / "snap/a.pdf").write_text("x")
    assert verify(archive)[0] == 6
    assert verify(archive, BULKFETCH_DESTINATION_IGNORE='["*.tmp", "snap/"]')[:2] == (0, [])


def test_extras_are_set_aside_on_demand(archive):
    """They move to quarantine, by their digest, and the next verification passes; a mended archive has nothing left."""
    (archive / "sub").mkdir()
    (archive / "sub/extra.txt").write_text("x")
    code, findings, outcome = verify(archive, "--set-aside")
    assert (code, findings, outcome["set_aside"], outcome["unmended"]) == (6, [("extra", "sub/extra.txt")], 1, 0)
    assert (archive / ".bulkfetch/quarantine" / hashlib.sha256(b"x").hexdigest()).read_text() == "x"
    code, findings, outcome = verify(archive)
    assert (code, findings, outcome["unmended"]) == (0, [], 0)


@pytest.mark.parametrize("number", [0, 1])
def test_each_damage_to_rows_is_found(archive, number):
    """A row changed, broken, left out or added, in a manifest of any run, names that manifest; the objects of the other
    rows are verified all the same."""
    manifest = sorted((archive / "manifests").glob("*.jsonl"))[number]
    name, good = f"manifests/{manifest.name}", manifest.read_bytes()
    lines = good.splitlines(keepends=True)
    at = next(index for index, line in enumerate(lines) if b'"attempts":1' in line)
    before, row, after = lines[:at], lines[at], lines[at + 1 :]
    for spoilt in (
        [*before, row.replace(b'"attempts":1', b'"attempts":2'), *after],
        [*before, b"!" + row[1:], *after],
        [*before, *after],
        [*lines, row],
    ):
        manifest.write_bytes(b"".join(spoilt))
        code, findings, outcome = verify(archive)
        assert code == 6
        assert ("chain", name) in findings
        assert outcome["checked"] >= 29
    manifest.unlink()
    assert ("chain", name) in verify(archive)[1]
    manifest.write_bytes(good)
    assert verify(archive)[0] == 0


@pytest.mark.parametrize("number", [0, 1])
def test_each_damage_to_summaries_is_found(archive, number):
    """A summary changed or cut, of any run, is named; one that is gone as well, and the newest by its head."""
    summary = sorted((archive / "manifests").glob("*.json"))[number]
    good = summary.read_bytes()
    flip(summary, 30)
    assert ("chain", f"manifests/{summary.name}") in verify(archive)[1]
    summary.write_bytes(good[:-5])
    assert ("chain", f"manifests/{summary.name}") in verify(archive)[1]
    summary.unlink()
    head = hashlib.sha256(good).hexdigest()
    code, findings, _ = verify(archive, "--head", head)
    assert code == 6
    assert ("chain", "manifests/") in findings


def test_a_run_prints_the_head_that_vouches_for_it(made, archive):
    """The head on screen is the SHA-256 of the newest summary; another one is refused."""
    newest = max((archive / "manifests").glob("*.json"))
    head = hashlib.sha256(newest.read_bytes()).hexdigest()
    assert f"head        {head}" in made[1]
    assert verify(archive, "--head", head)[0] == 0
    assert verify(archive, "--head", "0" * 64)[0] == 6
    assert bulkfetch("verify", archive, "--head", "abc").returncode == 2


def test_samples_and_subsets_read_a_part(archive):
    """Each of three nights reads another third, and all of them everything; a sample reads about its share, and finds
    nothing in what is sound. What is missing shows every time."""
    read = [verify(archive, "--subset", f"{part}/3")[2]["read"] for part in (1, 2, 3)]
    assert sum(read) == 30
    assert all(read)
    assert verify(archive, "--sample", "50%")[2]["read"] < 30
    flip(pdfs(archive)[0])
    found = [verify(archive, "--subset", f"{part}/3")[0] for part in (1, 2, 3)]
    assert sorted(found) == [0, 0, 6]
    for wrong in (("--sample", "0%"), ("--sample", "5"), ("--subset", "4/3"), ("--quick", "--sample", "5%")):
        assert bulkfetch("verify", archive, *wrong).returncode == 2


def test_a_list_is_proved_to_be_archived(archive, tmp_path):
    """Each invoice of the list is stored and sound: exit 0. One that is unknown, missing or no ID is named by its line;
    an accepted gap is not. What is wrong with others does not matter."""
    ids = [path.stem for path in pdfs(archive)[:5]]
    flip(pdfs(archive)[9])
    source = write_ids(tmp_path / "list.txt", [*ids, ids[0]])
    code, findings, outcome = verify(archive, "--ids", source)
    assert (code, findings, outcome["checked"], outcome["kind"]) == (0, [], 5, "ids")
    accept(archive, ["gap-1"], "will not come")
    pdfs(archive)[0].unlink()
    write_ids(source, [*ids, "gap-1", "unknown-1", "a b"])
    done = bulkfetch("verify", archive, "--ids", source, "--json")
    *findings, outcome = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 6
    assert sorted((each["finding"], each["invoice_id"], each["line"]) for each in findings) == [
        ("missing", ids[0], None), ("not_stored", "a b", 8), ("not_stored", "unknown-1", 7),
    ]  # fmt: skip
    assert outcome["accepted"] == 1


def test_where_there_is_no_archive_nothing_is_verified(tmp_path):
    """An empty folder, or a wrong name, is exit 2 or 5, and never a success."""
    assert bulkfetch("verify", tmp_path).returncode == 2
    assert bulkfetch("verify", tmp_path / "none").returncode == 5
    assert list(tmp_path.iterdir()) == []


@contextmanager
def in_bucket(seaweed, tmp_path):
    bucket, environ = seaweed.bucket(), machine(seaweed, tmp_path / "home")
    url = f"s3://{bucket}/{PREFIX}"
    with sandbox(invoices=20) as served:
        ids = write_ids(tmp_path / "ids.txt", ids_of(served))
        done = bulkfetch("run", ids, "--to", url, "--api-url", served.api_url, "--key", "{id[-1:]}/{id}.pdf", **environ)
        assert done.returncode == 0, done.stderr
    yield bucket, url, environ


def put(seaweed, bucket, key, data):
    answer = seaweed.request("PUT", f"/{bucket}/{PREFIX}/{key}", {}, body=data)
    assert answer.status == 200


def test_a_bucket_is_verified_by_its_own_checksums(seaweed, tmp_path):
    """Nothing is downloaded where the store knows the SHA-256, unless that is asked for; each damage is found both
    ways, extras are set aside, and the outcome is kept in the bucket."""
    with in_bucket(seaweed, tmp_path) as (bucket, url, environ):
        code, findings, outcome = verify(url, **environ)
        assert (code, findings, outcome["noted"], outcome["bytes"]) == (0, [], 20, 0)
        code, findings, outcome = verify(url, "--download", **environ)
        assert (code, findings, outcome["noted"], outcome["read"]) == (0, [], 0, 20)
        assert outcome["bytes"] > 0
        keys = sorted(key.removeprefix(f"{PREFIX}/") for key in seaweed.keys(bucket) if key.endswith(".pdf"))
        data = content(seaweed, bucket, keys[0])
        put(seaweed, bucket, keys[0], data[:-1] + b"!")
        seaweed.request("DELETE", f"/{bucket}/{PREFIX}/{keys[1]}", {})
        put(seaweed, bucket, "extra.txt", b"x")
        expected = [("damaged", keys[0]), ("extra", "extra.txt"), ("missing", keys[1])]
        for flags in ((), ("--download",)):
            code, findings, outcome = verify(url, *flags, **environ)
            assert (code, sorted(findings)) == (6, expected)
        assert json.loads(content(seaweed, bucket, ".bulkfetch/verification.json")) == outcome
        code, findings, outcome = verify(url, "--set-aside", **environ)
        assert outcome["set_aside"] == 1
        put(seaweed, bucket, keys[0], data)
        assert sorted(verify(url, **environ)[1]) == [("missing", keys[1])]


def test_damage_to_the_manifests_of_a_bucket_is_found(seaweed, tmp_path):
    """A changed row, a broken one, and a lost summary are named, each by its object or by its run."""
    with in_bucket(seaweed, tmp_path) as (bucket, url, environ):
        names = [key.removeprefix(f"{PREFIX}/") for key in seaweed.keys(bucket)]
        (manifest,) = [name for name in names if "rows-" in name]
        rows = content(seaweed, bucket, manifest)
        put(seaweed, bucket, manifest, rows.replace(b'"attempts":1', b'"attempts":2', 1))
        assert "chain" in [kind for kind, _ in verify(url, **environ)[1]]
        put(seaweed, bucket, manifest, b"!" + rows[1:])
        assert ("chain", manifest) in verify(url, **environ)[1]

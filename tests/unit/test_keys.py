"""Keys: what a template makes of an invoice ID."""

import re
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bulkfetch.errors import PermanentError, Reason, UsageError
from bulkfetch.keys import KEY_LIMIT, SEGMENT_LIMIT, KeyTemplate

WITH_ID = [
    "{id}",
    "{id}.pdf",
    "{id[:2]}/{id}.pdf",
    "{id[-2:]}/{id[:2]}/{id}.pdf",
    "{id}/invoice.pdf",
    "{fields[a]}/{fields[b]}-{id}.pdf",
    "{fields[a]}{id}.pdf",
    "{id}{id[1:]}.pdf",
    "{id}/{fields[a][:4]}{fields[b]}",
    "co{id}",
    "a/b/{id}/{fields[a]}/{fields[b]}/{id[:9]}.pdf",
]

# Few characters, so that generated neighbours are near misses; and any text at all.
NEAR = st.text("aA.-~%_/é\u0301eÉ \x00cCoOnNmani", min_size=1, max_size=12)
IDS = st.one_of(NEAR, st.text(st.characters(), min_size=1, max_size=300))
FIELDS = st.fixed_dictionaries({"a": IDS, "b": IDS})


def folded(key):
    """The name that file systems blind to case and normal form see."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", key).casefold())


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("{id}.pdf", "re-1.pdf"),
        ("{id[:2]}/{id}.pdf", "re/re-1.pdf"),
        ("{id[-1:]}/{id}.pdf", "1/re-1.pdf"),
        ("{fields[date][:4]}/{fields[number]}.pdf", "2024/7-a.pdf"),
        ("{fields[date][5:7]}/{id}/invoice.pdf", "05/re-1/invoice.pdf"),
        ("archive 1/{{{id}}}.pdf", "archive 1/{re-1}.pdf"),
        ("{fields[Invoice: no.]}.pdf", "x.pdf"),
    ],
)
def test_plain_values_stand_as_they_are(template, key):
    """Lower-case ASCII values are put into the template unchanged."""
    fields = {"date": "2024-05-06", "number": "7-a", "Invoice: no.": "x"}
    assert KeyTemplate.parse(template).key_for("re-1", fields) == key


@pytest.mark.parametrize(
    ("invoice_id", "stem"),
    [
        ("RE-2024", "RE-2024"),
        ("a b", "a%20b"),
        ("é", "%c3%a9"),
        ("e\u0301", "e%cc%81"),
        ("a~b", "a%7eb"),
        ("a%b", "a%25b"),
        (".a", "%2ea"),
        ("a.", "a%2e"),
        ("..", "%2e%2e"),
        ("../../etc/passwd", "%2e.%2f..%2fetc%2fpasswd"),
        ("a\x00b", "a%00b"),
        ("\ud800", "%ed%a0%80"),
        ("", "_"),
    ],
)
def test_changed_values_are_marked(invoice_id, stem):
    """A value that was escaped, or has capitals, is still readable and carries a digest."""
    key = KeyTemplate.parse("{id}.pdf").key_for(invoice_id, {})
    assert re.fullmatch(re.escape(stem) + r"~[0-9a-f]{16}\.pdf", key)


@pytest.mark.parametrize("name", ["con", "PRN", "Aux", "nul", "com1", "COM9", "lpt1", "lpt9", "con.txt", "nul.a.b"])
@pytest.mark.parametrize("template", ["{id}", "{id}.pdf", "{id}/x", "{id[:2]}{fields[rest]}/{id}x"])
def test_windows_names_are_escaped(name, template):
    """No segment is a name that Windows reserves, not even one that two values make together."""
    key = KeyTemplate.parse(template).key_for(name, {"rest": name[2:]})
    reserved = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
    assert not any(segment.split(".")[0].lower() in reserved for segment in key.split("/"))


@pytest.mark.parametrize("name", ["manifests", "MANIFESTS", ".bulkfetch", ".BulkFetch"])
@pytest.mark.parametrize("template", ["{id}", "{id}/x", "{id[:4]}{fields[rest]}/{id}"])
def test_own_names_are_escaped(name, template):
    """No invoice lands where bulkfetch keeps its own files."""
    key = KeyTemplate.parse(template).key_for(name, {"rest": name[4:]})
    assert key.split("/")[0].lower() not in {"manifests", ".bulkfetch"}


@pytest.mark.parametrize("template", WITH_ID)
@given(one=IDS, other=IDS, fields=FIELDS, others=FIELDS)
@example(one="RE-1", other="re-1", fields={"a": "x", "b": "y"}, others={"a": "x", "b": "y"})
@example(one="é", other="e\u0301", fields={"a": "x", "b": "y"}, others={"a": "x", "b": "y"})
@example(one="1y", other="y", fields={"a": "x", "b": "y"}, others={"a": "x1", "b": "y"})
@example(one="y", other="y-y", fields={"a": "x", "b": "y-y"}, others={"a": "x", "b": "y"})
@example(one="x" * 299, other="x" * 300, fields={"a": "x", "b": "y"}, others={"a": "x", "b": "y"})
def test_two_ids_never_meet(template, one, other, fields, others):
    """With the whole ID in the template, two IDs have two keys, whatever else is in their rows."""
    assume(one != other)
    parsed = KeyTemplate.parse(template)
    assert folded(parsed.key_for(one, fields)) != folded(parsed.key_for(other, others))


@given(invoice_id=NEAR, other=NEAR)
def test_names_that_only_look_alike_never_meet(invoice_id, other):
    """A suffixed name is never another ID's plain name, not even one written to look like it."""
    template = KeyTemplate.parse("{id}.pdf")
    assume(invoice_id != other)
    forged = template.key_for(invoice_id, {}).removesuffix(".pdf")
    assume(forged != invoice_id)
    assert folded(template.key_for(forged, {})) != folded(template.key_for(invoice_id, {}))


@pytest.mark.parametrize("template", [*WITH_ID, "{fields[a]}{fields[b]}.pdf", "/".join(["{fields[a]}"] * 20)])
@given(invoice_id=IDS, fields=FIELDS)
@example(invoice_id="a" * 230 + "." * 70, fields={"a": "." * 300, "b": "é" * 300})
@example(invoice_id="manifests" + "." * 300, fields={"a": "ma", "b": "nifests"})
def test_keys_stay_inside_and_within_bounds(template, invoice_id, fields):
    """A key is a relative path of harmless segments, bounded in length, and the same every time."""
    key = KeyTemplate.parse(template).key_for(invoice_id, fields)
    assert KeyTemplate.parse(template).key_for(invoice_id, dict(fields)) == key
    assert len(key.encode("ascii")) <= KEY_LIMIT
    assert re.fullmatch(r"[A-Za-z0-9._%~/-]+", key)
    assert key.count("/") == template.count("/")
    for segment in key.split("/"):
        assert 0 < len(segment) <= SEGMENT_LIMIT
        assert segment[0] != "."
        assert segment[-1] != "."
        assert not re.search(r"%(?![0-9a-f]{2})", segment)


def test_a_long_value_is_cut_and_keeps_its_extension():
    """A value too long for a file name is cut, and its digest keeps it apart."""
    key = KeyTemplate.parse("{id}.pdf").key_for("é" * 200, {})
    assert re.fullmatch(r"(%c3%a9)+(%c3)?~[0-9a-f]{16}\.pdf", key)
    assert 240 < len(key) <= SEGMENT_LIMIT


@pytest.mark.parametrize("fields", [{}, {"year": ""}])
def test_a_missing_field_gives_the_invoice_up(fields):
    """Without the field that its key needs, a row is invalid, and the message names the field."""
    with pytest.raises(PermanentError, match="'year'") as caught:
        KeyTemplate.parse("{fields[year]}/{id}.pdf").key_for("re-1", fields)
    assert caught.value.reason is Reason.INVALID_ROW


@pytest.mark.parametrize(
    ("template", "place"),
    [
        ("", "empty"),
        ("/{id}", "relative"),
        ("{id}/", "empty"),
        ("a//{id}", "empty"),
        ("../{id}", r"'\.\.' would leave"),
        ("{id}/..", r"'\.\.' would leave"),
        ("./{id}", "begins with a dot"),
        (".{id}", "begins with a dot"),
        (".bulkfetch/{id}", "begins with a dot"),
        ("manifests/{id}", "own files"),
        ("Manifests/{id}", "own files"),
        ("con/{id}", "Windows"),
        ("x/NUL.{id}", "Windows"),
        ("{id}.", "ends with a dot"),
        ("a /{id}", "ends with a dot or space"),
        ("invoice.pdf", r"put \{id\}"),
        ("{idd}.pdf", "character 1 is not known"),
        ("x-{}", "character 3 is not known"),
        ("{id[0]}", "character 1 is not known"),
        ("{id[::2]}", "character 1 is not known"),
        ("{fields}", "character 1 is not known"),
        ("{fields[]}", "character 1 is not known"),
        ("{id!r}", "character 1 is not known"),
        ("a{id", "'{' at character 2"),
        ("{id}}", "'}' at character 5"),
        ("a\\{id}", "character 2 is not safe"),
        ("c:{id}", "character 2 is not safe"),
        ("{id}~", "character 5 is not safe"),
        ("ä{id}", "character 1 is not safe"),
        ("\x1b{id}", r"u001b' at character 1 is not safe"),
        ("x" * 240 + "{id}", "shorten"),
        ("x" * 256 + "/{id}", "shorten"),
        ("/".join(["{id}"] * 60), "shorten"),
    ],
)
def test_bad_templates_are_refused(template, place):
    """A template that cannot make safe keys is refused, with the place and what to do."""
    with pytest.raises(UsageError, match=place) as caught:
        KeyTemplate.parse(template)
    assert str(caught.value).isprintable()


@given(
    st.sampled_from(["{id}.pdf", "{id[:3]}/{id}", "a%s/{id[:4]}{id[4:]}.x", "{id[3:6]}.pdf/{id}", "x/{id} .pdf"]),
    st.from_regex(r"[a-z0-9_-]{1,40}", fullmatch=True) | st.sampled_from(["con", "com1", "aux-b", "manifests"]) | IDS,
)
def test_the_quick_way_gives_the_same_key(template, invoice_id):
    """An ID of which nothing is changed has the key that the careful way gives it."""
    keys = KeyTemplate.parse(template.replace("%s", "(1)"))
    assert keys.key_for(invoice_id, {}) == replace(keys, _quick=None).key_for(invoice_id, {})

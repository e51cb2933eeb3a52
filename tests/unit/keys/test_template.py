"""Keys: what a template makes of an invoice's row."""

import os
import re
import unicodedata
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bulkfetch.errors import PermanentError, Reason, UsageError
from bulkfetch.keys import KEY_LIMIT, SEGMENT_LIMIT, KeyTemplate, fold

INJECTIVE = [
    "{id}",
    "{id}.pdf",
    "{id[:2]}/{id}.pdf",
    "{id[-2:]}/{id[:2]}/{id}.pdf",
    "{id}/invoice.pdf",
    "{fields[a]} {fields[b]}/{id}.pdf",
    "{id}/{fields[a][:4]}{fields[b]}",
    "co{id}",
    "Größe/{id} (Kopie).pdf",
    "a/b/{id}/{fields[a]}/{fields[b]}/{id[:9]}.pdf",
]
OTHERS = [
    "{fields[a]}{id}.pdf",
    "{id}{id[1:]}.pdf",
    "{fields[a]}/{fields[b]}-{id}.pdf",
    "{fields[a]}{fields[b]}.pdf",
    "/".join(["{fields[a]}"] * 20),
]

# Few characters, so that generated neighbours are near misses; and any text at all.
NEAR = st.text("aA.-~%_/é\u0301eÉ \x00cCoOnNmani\u017fß\u1100\u1161", min_size=1, max_size=12)
IDS = st.one_of(NEAR, st.text(st.characters(), min_size=1, max_size=300))
FIELDS = st.fixed_dictionaries({"a": IDS, "b": IDS})


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("{id}.pdf", "RE-1.pdf"),
        ("{id[:2]}/{id}.pdf", "RE/RE-1.pdf"),
        ("{id[-1:]}/{id}.pdf", "1/RE-1.pdf"),
        ("{fields[date][:4]}/{fields[number]}.pdf", "2024/7 A.pdf"),
        ("{fields[date][5:7]}/{id}/invoice.pdf", "05/RE-1/invoice.pdf"),
        ("{fields[Kunde]}/{fields[number]}.pdf", "Müller & Söhne GmbH, Köln (Süd)/7 A.pdf"),
        ("{fields[顧客]}/{id}.pdf", "東京商事/RE-1.pdf"),
        ("{fields[ग्राहक]}.pdf", "हिन्दी.pdf"),
        ("{fields[dots]}/{fields[dots]}.pdf", "Acme..Co/Acme..Co.pdf"),
        ("{fields[dots][:5]}.pdf", "Acme..pdf"),
        ("Rechnungen Größe/archive 1/{{{id}}}.pdf", "Rechnungen Größe/archive 1/{RE-1}.pdf"),
        ("{fields[Invoice: no.]}.pdf", "o'x=1+2@3.pdf"),
        ("{fields[date]:%Y/%m}/{id}.pdf", "2024/05/RE-1.pdf"),
        ("{fields[date]:%Y-%m-%d} {id}.pdf", "2024-05-06 RE-1.pdf"),
        ("{fields[date]:%G}/KW {fields[date]:%V}/{id}.pdf", "2024/KW 19/RE-1.pdf"),
    ],
)
def test_the_names_that_people_chose_stay(template, key):
    """Letters of any case and script, digits, blanks and common signs are put into the template unchanged."""
    fields = {
        "date": "2024-05-06",
        "number": "7 A",
        "Kunde": "Müller & Söhne GmbH, Köln (Süd)",
        "顧客": "東京商事",
        "ग्राहक": "हिन्दी",
        "dots": "Acme..Co",
        "Invoice: no.": "o'x=1+2@3",
    }
    assert KeyTemplate.parse(template).key_for("RE-1", fields) == key


@pytest.mark.parametrize(
    ("invoice_id", "stem"),
    [
        ("e\u0301", "é"),
        ("\u212b", "Å"),
        ("a~b", "a%7eb"),
        ("a%b", "a%25b"),
        (".a", "%2ea"),
        (" a", "%20a"),
        ("..", "%2e."),
        ("../../etc/passwd", "%2e.%2f..%2fetc%2fpasswd"),
        ("a\x00b", "a%00b"),
        ("in\u202evoice", "in%e2%80%aevoice"),
        ("a\u3164", "a%e3%85%a4"),
        ("a\u00a0b", "a%c2%a0b"),
        ("#1: 5€", "%231%3a 5%e2%82%ac"),
        ("\ud800", "%ed%a0%80"),
        ("", "_"),
    ],
)
def test_changed_values_are_marked(invoice_id, stem):
    """A value that was escaped or normalised is still readable, and carries a digest before its extension."""
    template = KeyTemplate.parse("{id}.pdf")
    key = template.key_for(invoice_id, {})
    assert re.fullmatch(re.escape(stem) + r"~[0-9a-f]{16}\.pdf", key)
    assert template.alternative(invoice_id, {}) == key


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("{id}", "a.%2f~"),
        ("{fields[name]}", "x%2fy~.pdf"),
        ("{fields[name][:3]}-{id[:1]}_1.tiff", "x%2fy-a_1~.tiff"),
        ("{fields[name][:3]}/{id[:1]}/1.pdf", "x%2fy/a~/1.pdf"),
        ("{id}/{fields[date]:%Y}/1.pdf", "a.%2f/2024~/1.pdf"),
    ],
)
def test_where_the_digest_stands(template, key):
    """The digest is in the last name that has a value, before the extension that a program knows it by."""
    made = KeyTemplate.parse(template).key_for("a./", {"name": "x/y.pdf", "date": "2024-05-06"})
    assert re.sub(r"~[0-9a-f]{16}", "~", made) == key


@pytest.mark.parametrize("tail", [".", " "])
def test_dots_and_blanks_at_the_end_of_a_name_are_escaped(tail):
    """Windows drops them there; before an extension they stand."""
    fields = {"a": f"Acme Co{tail}"}
    assert KeyTemplate.parse("{fields[a]}/{id}.pdf").key_for("1", fields).startswith(f"Acme Co%{ord(tail):02x}/1~")
    assert KeyTemplate.parse("{fields[a]}.pdf").key_for("1", fields) == f"Acme Co{tail}.pdf"


@pytest.mark.parametrize("name", ["con", "PRN", "Aux", "nul", "com1", "COM9", "lpt1", "lpt9", "con.txt", "nul.a.b"])
@pytest.mark.parametrize("template", ["{id}", "{id}.pdf", "{id}/x", "{id[:2]}{fields[rest]}/{id}x"])
def test_windows_names_are_escaped(name, template):
    """No segment is a name that Windows reserves, not even one that two values make together."""
    key = KeyTemplate.parse(template).key_for(name, {"rest": name[2:]})
    reserved = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
    assert not any(segment.split(".")[0].rstrip().lower() in reserved for segment in key.split("/"))


@pytest.mark.parametrize(
    "name", ["manifests", "MANIFESTS", "manife\u017fts", "manife\ufb06s", ".bulkfetch", ".BulkFetch"]
)
@pytest.mark.parametrize("template", ["{id}", "{id}/x", "{id[:4]}{fields[rest]}/{id}"])
def test_own_names_are_escaped(name, template):
    """No invoice lands where bulkfetch keeps its own files, on no disk that folds case."""
    key = KeyTemplate.parse(template).key_for(name, {"rest": name[4:]})
    assert fold(key).split("/")[0] not in {"manifests", ".bulkfetch"}


@pytest.mark.parametrize("template", INJECTIVE)
@given(one=IDS, other=IDS, fields=FIELDS, others=FIELDS)
@example(one="RE-1", other="re-1", fields={"a": "x", "b": "y"}, others={"a": "x", "b": "y"})
@example(one="é", other="e\u0301", fields={"a": "x", "b": "y"}, others={"a": "x", "b": "y"})
@example(one="x" * 299, other="x" * 300, fields={"a": "x", "b": "y"}, others={"a": "x", "b": "y"})
@example(one="%" + "25" * 111, other="%" + "25" * 112, fields={"a": "x", "b": "y"}, others={"a": "x", "b": "y"})
def test_two_ids_never_have_one_key(template, one, other, fields, others):
    """Where the ID is all that changes between two slashes, two IDs have two keys, whatever else is in their rows."""
    assume(one != other)
    parsed = KeyTemplate.parse(template)
    assert parsed.injective
    assert parsed.key_for(one, fields) != parsed.key_for(other, others)


@pytest.mark.parametrize("template", OTHERS)
def test_templates_that_can_give_two_ids_one_key_say_so(template):
    """Two values beside each other can change places with the text between them."""
    assert not KeyTemplate.parse(template).injective


@given(one=NEAR, other=NEAR)
def test_names_tell_values_apart_even_without_their_digest(one, other):
    """Escaping loses nothing: what is in front of the digest is equal only where the values are in NFC."""
    template = KeyTemplate.parse("{id}")
    names = [template.key_for(value, {}).partition("~")[0] for value in (one, other)]
    same = unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
    assert (names[0] == names[1]) == same


@pytest.mark.parametrize("template", [*INJECTIVE, *OTHERS])
@given(one=IDS, other=IDS, fields=FIELDS, others=FIELDS)
@example(one="RE-1", other="re-1", fields={"a": "x", "b": "y"}, others={"a": "x", "b": "y"})
@example(one="1y", other="y", fields={"a": "x", "b": "y"}, others={"a": "x1", "b": "y"})
@example(one="a", other="b", fields={"a": "x\x00", "b": "y"}, others={"a": "x", "b": "\x00y"})
def test_alternatives_never_meet(template, one, other, fields, others):
    """Two IDs never have one alternative, not even on a disk that is blind to case, nor one that is another's key."""
    assume(one != other)
    parsed = KeyTemplate.parse(template)
    alternative = parsed.alternative(one, fields)
    assert fold(alternative) != fold(parsed.alternative(other, others))
    assert fold(alternative) != fold(parsed.key_for(other, others))
    key = parsed.key_for(one, fields)
    assert re.sub(r"~[0-9a-f]{16}", "", alternative) == re.sub(r"~[0-9a-f]{16}", "", key)
    assert ("~" in key) == (alternative == key)


@given(invoice_id=NEAR, other=NEAR)
def test_a_name_that_only_looks_marked_is_nobody_elses(invoice_id, other):
    """A marked name is never another ID's plain name, not even one written to look like it."""
    template = KeyTemplate.parse("{id}.pdf")
    assume(invoice_id != other)
    forged = template.alternative(invoice_id, {}).removesuffix(".pdf")
    assert fold(template.key_for(forged, {})) != fold(template.alternative(invoice_id, {}))


@pytest.mark.parametrize("template", [*INJECTIVE, *OTHERS])
@given(invoice_id=IDS, fields=FIELDS)
@example(invoice_id="a" * 230 + "." * 70, fields={"a": "." * 300, "b": "é" * 300})
@example(invoice_id="manifests" + "." * 300, fields={"a": "ma", "b": "nifests"})
@example(invoice_id="\u1161", fields={"a": "\u1100", "b": "\u0301"})
def test_keys_stay_inside_and_within_bounds(template, invoice_id, fields):
    """A key is a relative path of harmless segments in NFC, bounded in bytes, and the same every time."""
    parsed = KeyTemplate.parse(template)
    key = parsed.key_for(invoice_id, fields)
    assert KeyTemplate.parse(template).key_for(invoice_id, {**fields, "c": "of no interest"}) == key
    for name in (key, parsed.alternative(invoice_id, fields)):
        assert len(name.encode()) <= KEY_LIMIT
        assert unicodedata.is_normalized("NFC", name)
        assert name.count("/") == template.count("/")
        for segment in name.split("/"):
            assert 0 < len(segment.encode()) <= SEGMENT_LIMIT - len(".sha256")
            assert segment[0] not in ". "
            assert segment[-1] not in ". "
            assert not re.search(r"%(?!(?:[0-9a-f]{2}))|[\\:*?\"<>|]", segment)
            categories = {unicodedata.category(char) for char in segment if char != " "}
            assert not {category for category in categories if category[0] in "CZ"}


@pytest.mark.parametrize("template", ["{id}.pdf", "{fields[a]}/{fields[b]} {id}.pdf"])
@given(invoice_id=IDS, fields=FIELDS)
@example(invoice_id="é" * 200, fields={"a": "漢" * 300, "b": "\U0001f600" * 300})
def test_a_key_is_the_name_that_the_disk_then_lists(template, invoice_id, fields):
    """A file is created under the key, and a listing gives the same key back."""
    parsed = KeyTemplate.parse(template)
    keys = {parsed.key_for(invoice_id, fields), parsed.alternative(invoice_id, fields)}
    with TemporaryDirectory() as root:
        for key in keys:
            path = os.path.join(root, *key.split("/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "x"):
                pass
        listed = {
            os.path.relpath(os.path.join(folder, name), root) for folder, _, names in os.walk(root) for name in names
        }
    assert listed == keys


@pytest.mark.parametrize(
    ("value", "stem"),
    [
        ("x" * 300, "x{222}"),
        ("é" * 200, "é{100,120}"),
        ("漢" * 200, "漢{70,80}"),
        ("€" * 200, "(%e2%82%ac)+"),
        ("क्" * 200, "(क्)+क?"),
    ],
)
def test_a_long_value_is_cut_between_characters_and_keeps_its_extension(value, stem):
    """A value too long for a file name is cut, at no half character nor half escape, and its digest keeps it apart."""
    key = KeyTemplate.parse("{id}.pdf").key_for(value, {})
    assert re.fullmatch(rf"{stem}~[0-9a-f]{{16}}\.pdf", key)
    assert SEGMENT_LIMIT - 24 < len(key.encode()) <= SEGMENT_LIMIT


@pytest.mark.parametrize("fields", [{}, {"year": ""}])
@pytest.mark.parametrize("template", ["{fields[year]}/{id}.pdf", "{fields[year]:%Y}/{id}.pdf"])
def test_a_missing_field_gives_the_invoice_up(template, fields):
    """Without the field that its key needs, a row is invalid, and the message names the field."""
    with pytest.raises(PermanentError, match="'year'") as caught:
        KeyTemplate.parse(template).key_for("re-1", fields)
    assert caught.value.reason is Reason.INVALID_ROW


@pytest.mark.parametrize(
    ("value", "date_format", "said"),
    [
        ("01/02/2024", "", "more than one date; say with [source] date_format"),
        ("soon\x1b[2J", "", "'soon\\\\u001b[2J', which is no date such as 2024-12-31"),
        ("31.04.2024", "", "no day of the calendar; mend the row"),
        ("2024-12-31", "%d/%m/%Y", "no date of the form '%d/%m/%Y' ([source] date_format)"),
    ],
)
def test_a_value_that_is_no_date_gives_the_invoice_up(value, date_format, said):
    """The row is invalid, and the message names column, value and fix."""
    template = KeyTemplate.parse("{fields[Datum]:%Y/%m}/{id}.pdf", date_format)
    with pytest.raises(PermanentError) as caught:
        template.key_for("re-1", {"Datum": value})
    assert caught.value.reason is Reason.INVALID_ROW
    assert "column 'Datum' holds" in str(caught.value)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_date_format_decides_what_a_value_means():
    """The same value is another day by another [source] date_format."""
    for date_format, key in (("%d/%m/%Y", "2024/02"), ("%m/%d/%Y", "2024/01")):
        template = KeyTemplate.parse("{fields[Datum]:%Y/%m}", date_format)
        assert template.key_for("re-1", {"Datum": " 01/02/2024 "}) == key


def test_the_columns_that_a_template_needs():
    """Each column counts once, in order, and slices and dates need theirs like whole values."""
    template = "{fields[Kunde]}/{fields[Datum]:%Y/%m}/{fields[Kunde][:3]}-{id}.pdf"
    assert KeyTemplate.parse(template).columns == ("Kunde", "Datum")
    assert KeyTemplate.parse("{id}.pdf").columns == ()


def test_an_input_without_a_column_is_refused_at_once():
    """The error names the column, the one that was probably meant, and what there is."""
    template = KeyTemplate.parse("{fields[jahr]}/{fields[Kunde]}/{id}.pdf")
    template.check_columns(["Kunde", "jahr"])
    with pytest.raises(UsageError) as caught:
        template.check_columns(["Kunde", "Jahr", "x\x1b"])
    assert "no column is called 'jahr'; did you mean 'Jahr'?" in str(caught.value)
    assert "Kunde, Jahr, x\\u001b" in str(caught.value)
    with pytest.raises(UsageError, match=r"'jahr'\. Besides that of the ID, which is \{id\}, there are: none"):
        template.check_columns([])


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
        (" {id}", "begins with a dot or space"),
        (".bulkfetch/{id}", "begins with a dot"),
        ("manifests/{id}", "own files"),
        ("Manifests/{id}", "own files"),
        ("Manife\u017fts/{id}", "own files"),
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
        ("{id:%Y}", "character 1 is not known"),
        ("{fields[a]:}", "character 1 is not known"),
        ("{fields[a][:2]:%Y}", "character 1 is not known"),
        ("{fields[a]:jahr}", "names no part of the date; use %Y"),
        ("{fields[a]:%Y/%B}", "'%B' at character 15 is no part of a date"),
        ("{fields[a]:%-d}", "'%-' at character 12 is no part of a date"),
        ("{fields[a]:%Y%}", "'%' at character 14 is no part of a date"),
        ("{fields[a]:%Y:%m}", "':' at character 14 is not safe"),
        ("{fields[a]:%Y//%m}", "empty"),
        ("{fields[a]:/%Y}", "empty"),
        ("{fields[a]:%Y/../%m}", "would leave"),
        ("a{id", "'{' at character 2"),
        ("{id}}", "'}' at character 5"),
        ("a\\{id}", "character 2 is not safe"),
        ("c:{id}", "character 2 is not safe"),
        ("{id}~", "character 5 is not safe"),
        ("ab/c%{id}", "character 5 is not safe"),
        ("€{id}", "character 1 is not safe"),
        ("{id}\u0301", "character 5 is not safe"),
        ("{id}\u1161", "character 5 is not safe"),
        ("\x1b{id}", r"u001b' at character 1 is not safe"),
        ("a\u200b{id}", r"u200b' at character 2 is not safe"),
        ("x" * 230 + "{id}", "shorten"),
        ("ä" * 115 + "{id}", "shorten"),
        ("x" * 256 + "/{id}", "shorten"),
        ("/".join(["{id}"] * 60), "shorten"),
    ],
)
def test_bad_templates_are_refused(template, place):
    """A template that cannot make safe keys is refused, with the place and what to do."""
    with pytest.raises(UsageError, match=place) as caught:
        KeyTemplate.parse(template)
    assert str(caught.value).isprintable()


def test_a_template_is_put_into_nfc():
    """A literal typed on a system that decomposes letters makes the same names as elsewhere."""
    template = KeyTemplate.parse("Mu\u0308ller/{id}.pdf")
    assert template.key_for("RE-1", {}) == "Müller/RE-1.pdf"


@given(pieces=st.lists(st.sampled_from(["{id}", "{id[:1]}", *"aé\u0301/. ~\u1100\u1161"]), max_size=8), invoice_id=IDS)
def test_whatever_template_passes_makes_safe_keys(pieces, invoice_id):
    """A template is refused, or its keys are paths of segments in NFC, whatever it is made of."""
    try:
        template = KeyTemplate.parse("".join(pieces))
    except UsageError:
        return
    key = template.key_for(invoice_id, {})
    assert unicodedata.is_normalized("NFC", key)
    assert not {"", ".", ".."} & set(key.split("/"))


@pytest.mark.parametrize("text", ["{id}.pdf", "{fields[of]}/{id}.pdf", "{fields[of]}.pdf"])
@pytest.mark.parametrize(("invoice_id", "of"), [("RE-1", "Müller"), ("a:b", "A/B")])
def test_a_template_knows_its_keys(text: str, invoice_id: str, of: str) -> None:
    """The plain key and the alternative one are the template's in any spelling, and no other is."""
    parsed, fields = KeyTemplate.parse(text), {"of": of}
    keys = [parsed.key_for(invoice_id, fields), parsed.alternative(invoice_id, fields)]
    for key in (*keys, *(key.upper() for key in keys)):
        assert parsed.gives(key, invoice_id, fields)
    assert not parsed.gives(keys[0], f"{invoice_id}1", {"of": f"{of}1"})
    assert not parsed.gives("other.pdf", invoice_id, fields)

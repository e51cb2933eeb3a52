"""The parsers: what each format takes, rejects and refuses."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkfetch.errors import Reason, UsageError
from bulkfetch.models import Delivery, Malformed
from bulkfetch.sources.files.csv import TableParser
from bulkfetch.sources.files.csv_feed import Feed
from bulkfetch.sources.files.damage import Damage
from bulkfetch.sources.files.jsonl import JsonlParser
from bulkfetch.sources.files.lines import LINE_CAP, LineSplitter
from bulkfetch.sources.files.txt import TextParser


def parser_of(kind, column="", needed=(), *, judged=False):
    """The parser of a format; `judged` says that the input is known to be UTF-8, but for a damaged line."""
    damage = Damage("ids", print)
    damage.handed_out = judged
    match kind:
        case "txt":
            return TextParser("ids", wary_of_csv=True)
        case "csv":
            return TableParser("ids", column, damage, needed)
        case _:
            return JsonlParser("ids", column, damage)


def parse_with(parser, kind, *blocks):
    """The rows that `parser` makes of an input that comes in `blocks`."""
    splitter = LineSplitter(table=kind == "csv")
    rows = [row for block in blocks for row in parser.parse(splitter.feed(block))]
    lines, unended = splitter.finish()
    return [*rows, *parser.parse(lines), *parser.finish(unended)]


def parse(kind, *blocks, column="", needed=(), judged=False):
    """The rows of an input that comes in `blocks`."""
    return parse_with(parser_of(kind, column, needed, judged=judged), kind, *blocks)


def not_rows(kind, data):
    """What the lines of `data` are that are no rows, with the IDs of the rows."""
    parser = parser_of(kind)
    rows = parse_with(parser, kind, data)
    return dict(parser.not_rows), [row.invoice_id for row in rows]


def brief(rows):
    """Line and ID, or line and reason, of each row."""
    return [(row.line, row.invoice_id if isinstance(row, Delivery) else row.reason) for row in rows]


PIECES = st.lists(
    st.sampled_from([b"\n", b"\r", b'"', b",", b"id", b"a", b"\xff", b"#", b'{"id":"x"}', b" "]), max_size=30
)


@pytest.mark.parametrize(("kind", "head"), [("txt", b"x\n"), ("csv", b"id,n\n"), ("jsonl", b'"x"\n')])
@given(blocks=PIECES)
@example(blocks=[b'"a', b"\n", b'"b"\n', b"c,1\n"])
def test_cuts_between_blocks_change_nothing(kind, head, blocks):
    """However the bytes are cut into blocks, the rows are the same."""
    assert parse(kind, head, *blocks, judged=True) == parse(kind, head + b"".join(blocks), judged=True)


@pytest.mark.parametrize(("kind", "head"), [("txt", b""), ("csv", b"id\n"), ("jsonl", b"")])
def test_a_line_too_long_is_one_row_in_bounded_memory(kind, head):
    """A line longer than the cap is rejected and passed over, and the next line is read again."""
    splitter, parser = LineSplitter(), parser_of(kind)
    rows = parser.parse(splitter.feed(head))
    for _ in range(50):
        rows += parser.parse(splitter.feed(b"x" * LINE_CAP))
        assert len(splitter._rest) <= LINE_CAP + 1
    good = b'"a"\n'.replace(b'"', b"" if kind == "txt" else b'"')
    rows += parser.parse(splitter.feed(b"\n" + good)) + parser.finish()
    first = 1 + head.count(b"\n")
    assert brief(rows) == [(first, Reason.INVALID_ROW), (first + 1, "a")]
    assert len(rows[0].raw) <= 200


def test_txt_rejects_by_line_and_code_point():
    """What is no ID is rejected under its line, with the character or bytes that are wrong, escaped."""
    rows = parse("txt", "a\nb c\n\u200bd\ne\x1b[2J\n".encode() + b"\xff\xfe\n..\nf\r")
    assert brief(rows) == [(1, "a"), *((line, Reason.INVALID_ID) for line in range(2, 7)), (7, "f")]
    assert "U+0020" in rows[1].message
    assert "U+200B" in rows[2].message
    assert "ff fe" in rows[4].message
    assert all(row.raw.isprintable() for row in rows[1:6])


@pytest.mark.parametrize("line", [b"id,number", b"RE-1;2024-01-01;x", b"a\tb", b'"a","b"'])
def test_txt_that_is_a_table_is_refused(line):
    """A table taken for a list is refused as a whole, comments before it or not, with the fix."""
    with pytest.raises(UsageError, match=r"line 2 .*\.csv.*--format csv.*--column"):
        parse("txt", b"# a, comment\n" + line + b"\n")


def test_txt_with_a_stray_comma_is_a_list():
    """A comma that separates nothing, or comes later, is a bad row and no table."""
    assert brief(parse("txt", b"a,\nb\n")) == [(1, Reason.INVALID_ID), (2, "b")]
    assert brief(parse("txt", b"a\nb,c\n")) == [(1, "a"), (2, Reason.INVALID_ID)]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_takes_any_delimiter_and_gives_the_other_columns(mark):
    """The header tells the delimiter; the other columns are the row's fields, as they are."""
    text = 'nr,"id",note\n1, a ," x "\n'.replace(",", mark)
    assert parse("csv", text.encode()) == [Delivery("a", 2, {"nr": "1", "note": " x "})]


@pytest.mark.parametrize(
    ("header", "column", "found"),
    [("x,id,invoice_id", "", "b"), ("x,y,invoice_id", "", "c"), ("x,id,y", "y", "c"), (" id ,x,y", "", "a")],
)
def test_csv_column(header, column, found):
    """The column asked for, else `id`, else `invoice_id` holds the ID."""
    assert brief(parse("csv", f"{header}\na,b,c\n".encode(), column=column)) == [(2, found)]


def test_csv_only_column():
    """A table of one column needs no name for it."""
    assert brief(parse("csv", b"Rechnung\na\n\nb\n")) == [(2, "a"), (4, "b")]


@pytest.mark.parametrize(
    ("data", "column", "problem"),
    [
        (b"x,y\n1,2\n", "", "one of: x, y"),
        (b"number,date\n", "nubmer", "did you mean 'number'"),
        (b"id,x,id\n", "", "more than one column is called 'id'"),
        (b"RE-2024-1\nRE-2024-2\n", "", "looks like an invoice ID"),
        (b"id,\xff\n", "", "not UTF-8"),
        (b'id,"x\n1,2\n', "", "header in line 1 cannot be read"),
    ],
)
def test_csv_header_is_refused_with_the_fix(data, column, problem):
    """A header that does not tell the column is refused as a whole, with what there is."""
    with pytest.raises(UsageError, match=problem):
        parse("csv", data, column=column)


def test_csv_row_over_several_lines_counts_under_its_first():
    """A quoted line break belongs to its field; the row's line is where it begins."""
    rows = parse("csv", b'id,note\r\na,"one\r\ntwo"\r\n', b'b,"three\n\nfo', b'ur"\nc,\n')
    assert brief(rows) == [(2, "a"), (4, "b"), (7, "c")]
    assert [row.fields["note"] for row in rows] == ["one\r\ntwo", "three\n\nfour", ""]


def test_csv_rejects_rows():
    """Rows without a usable ID, or with text after its quote, are rejected under their line, and the cell is named."""
    bad = [b"b,c,d", b"a\0,b", b",b", b'"a"x,b', b"a b,c"]
    rows = parse("csv", b"x,id\n" + b"\n".join(b",".join(row.split(b",")[::-1]) for row in bad) + b"\n1,z\n")
    reasons = [Reason.INVALID_ROW, *[Reason.INVALID_ID] * 2, Reason.INVALID_ROW, Reason.INVALID_ID]
    assert brief(rows) == [*enumerate(reasons, 2), (7, "z")]
    assert all("column id" in row.message for row in rows[:-1] if row.reason == Reason.INVALID_ID)


def never_closed(count):
    """The blocks of a table whose first row opens a quote that nobody closes, with `count` rows after it."""
    lines = [f"id-{number},x\n".encode() for number in range(count)]
    return [b'id,x\na,"x\n', *(b"".join(lines[start : start + 50]) for start in range(0, count, 50))]


@pytest.mark.parametrize("count", [3, 20_000])
def test_csv_quote_never_closed_costs_one_line(count):
    """An unclosed quote is rejected under its line, and not one row after it is lost."""
    rows = parse("csv", *never_closed(count))
    assert brief(rows) == [(2, Reason.INVALID_ROW), *((line, f"id-{line - 3}") for line in range(3, count + 3))]


def test_csv_quote_never_closed_is_given_up_after_a_while(monkeypatch):
    """Each block looks at the open row anew, but only up to a size: every line behind that is looked at once."""
    looks, look = Counter(), Feed.__next__
    for count in (10_000, 20_000):
        monkeypatch.setattr(Feed, "__next__", lambda feed, count=count: looks.update([count]) or look(feed))
        parse("csv", *never_closed(count))
    assert looks[20_000] - looks[10_000] <= 10_000


def test_jsonl_takes_objects_strings_and_whole_numbers():
    """An ID is a string or a whole number, alone or a member; other scalars are fields, in JSON's words."""
    lines = [
        b'{"id":"a","n":1,"f":1.5,"t":true,"s":"x","none":null,"list":[1],"o":{}}',
        b'{"invoice_id":7,"id2":"x"}',
        b'"b"',
        b"",
        b'{"id":123456789012345678901234567890}',
    ]
    assert parse("jsonl", b"\n".join(lines)) == [
        Delivery("a", 1, {"n": "1", "f": "1.5", "t": "true", "s": "x"}),
        Delivery("7", 2, {"id2": "x"}),
        Delivery("b", 3),
        Delivery("123456789012345678901234567890", 5),
    ]


@pytest.mark.parametrize(
    "line",
    [b"{", b"a", b"7", b"null", b"[1]", b"{}", b'{"id":null}', b'{"id":true}', b'{"id":1.0}', b'"\xff"', b"[" * 60_000],
)
def test_jsonl_rejects_rows(line):
    """What is no JSON, or has no usable ID, is rejected, and the next line is read."""
    rows = parse("jsonl", b'"z"\n' + line + b'\n"a"\n', judged=True)
    assert [row.invoice_id for row in (rows[0], rows[2])] == ["z", "a"]
    assert isinstance(rows[1], Malformed)


def test_jsonl_string_is_taken_as_it_is():
    """A JSON string is exact: a blank in it is part of the ID, which is therefore none."""
    assert brief(parse("jsonl", b'" a"\n')) == [(1, Reason.INVALID_ID)]


def test_jsonl_column_that_is_nowhere_is_refused():
    """A misspelt --column is an error of the command, not of every row; once seen, a row without it is one bad row."""
    with pytest.raises(UsageError, match="did you mean 'number'"):
        parse("jsonl", b'{"number":"a"}\n', column="nubmer")
    rows = parse("jsonl", b'{"no":"a"}\n{"x":"b"}\n', column="no")
    assert brief(rows) == [(1, "a"), (2, Reason.INVALID_ROW)]

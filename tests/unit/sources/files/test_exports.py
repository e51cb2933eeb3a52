"""Lists as spreadsheets, bookkeeping programs and scripts export them: what is read, passed over, rejected, refused."""

from collections import Counter

import pytest

from bulkfetch.errors import UsageError
from bulkfetch.models import Delivery
from bulkfetch.sources.files.csv import TableParser
from bulkfetch.sources.files.damage import Damage
from bulkfetch.sources.files.jsonl import JsonlParser
from bulkfetch.sources.files.lines import LineSplitter
from bulkfetch.sources.files.txt import TextParser


class Read:
    """What became of an input: its rows, what is no row, and what was told."""

    def __init__(self, kind, data, column="", needed=()):
        self.told = []
        damage = Damage("list", self.told.append)
        parser = {
            "csv": lambda: TableParser("list", column, damage, needed),
            "jsonl": lambda: JsonlParser("list", column, damage),
            "txt": lambda: TextParser("list", wary_of_csv=True),
        }[kind]()
        splitter = LineSplitter(table=kind == "csv")
        rows = parser.parse(splitter.feed(data))
        lines, unended = splitter.finish()
        self.rows = [*rows, *parser.parse(lines), *parser.finish(unended)]
        self.not_rows = parser.not_rows
        self.ids = [row.invoice_id for row in self.rows if isinstance(row, Delivery)]
        self.rejected = [(row.line, row.message) for row in self.rows if not isinstance(row, Delivery)]


READ = {
    "the delimiter that Excel is told": (b"sep=;\r\nid;n\r\na;1\r\n", ["a"]),
    "the same in quotes, with a pipe": (b'"sep=|"\r\nid|n\r\na|1\r\n', ["a"]),
    "the same again in the middle of joined files": (b"sep=;\nid;n\na;1\nsep=;\nid;n\nb;2\n", ["a", "b"]),
    "pipes": (b"id|n\na|1\n", ["a"]),
    "pipes at both ends, with rulers": (b"-------\n|id |n|\n|---|-|\n|a  |1|\n-------\n", ["a"]),
    "last cells left out": (b"id;n;year\na\nb;1\nc;1;2\n", ["a", "b", "c"]),
    "a delimiter at the end of each row": (b"id;n\na;1;\nb;2;;\n", ["a", "b"]),
    "the same under a single column": (b"id\na;\nb;\n", ["a", "b"]),
    "two columns of one name": (b"id,x,x\na,1,2\n", ["a"]),
    "a delimiter inside of a quoted cell": (b'id;n\na;"x;y"\n', ["a"]),
    "a comma in the header's other cells": (b"Name, first;id;n\nx;a;1\n", ["a"]),
    "a cell too many behind the ID": (b"id;name;n\na;Smith; Jones;1\n", ["a"]),
    "quotes in a quoted cell behind the ID": (b'"id";"name"\n"a";"The "Inn""\n"b";"x"\n', ["a", "b"]),
    "a NUL in another cell": (b"id;n\na;x\0y\n", ["a"]),
    "a formula that keeps zeros": (b'id;n\n="0012";1\n"=""0013""";2\n', ["0012", "0013"]),
    "no-break spaces around": ("id\u00a0;n\n\u00a0a\u00a0;1\n".encode(), ["a"]),
    "a comment above the header": (b"# exported today\nid;n\na;1\n", ["a"]),
    "CR alone": (b"id;n\ra;1\rb;2\r", ["a", "b"]),
    "CR alone, with LF in a cell": (b'id;n\ra;"one\ntwo"\rb;2\r', ["a", "b"]),
    "CR twice before LF": (b"id;n\r\r\na;1\r\r\n", ["a"]),
    "a header in capitals": (b"ID;n\na;1\n", ["a"]),
    "a header in words": (b"Invoice-ID;n\na;1\n", ["a"]),
}


@pytest.mark.parametrize("case", READ)
def test_a_table_is_read(case):
    """Every row of an export gives its ID, and nothing else is taken for a row."""
    data, ids = READ[case]
    read = Read("csv", data)
    assert (read.ids, read.rejected) == (ids, [])


@pytest.mark.parametrize(
    ("kind", "data", "ids"),
    [
        ("txt", b"a\rb\rc", ["a", "b", "c"]),
        ("txt", b"a", ["a"]),
        ("txt", b"a\r\r\nb\r\r\n", ["a", "b"]),
        ("txt", b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "b"]),
        ("txt", b"a\nb\n\x1a", ["a", "b"]),
        ("txt", b'"a"\n"b"\n', ["a", "b"]),
        ("txt", "\u00a0a\u2003\n".encode(), ["a"]),
        ("jsonl", b'\xef\xbb\xbf{"id":"a"}\r{"id":"b"}\r', ["a", "b"]),
        ("jsonl", b'{"invoiceId":"a"}\n{"ID":7}\n', ["a", "7"]),
        ("jsonl", b'{"id":"a","x":1e999,"y":"\\ud800"}\n', ["a"]),
    ],
)
def test_a_list_is_read(kind, data, ids):
    """Line ends of any kind, BOMs, quotes and space of any kind around an ID change nothing about it."""
    read = Read(kind, data)
    assert (read.ids, read.rejected) == (ids, [])


@pytest.mark.parametrize(
    ("kind", "data", "found"),
    [
        ("txt", b"# x\n\na\n \t\n", {"comment": 1, "blank": 2}),
        ("csv", b"\nid;n\n\na;1\n;;\n ; \nid;n\n# end;\n", {"blank": 2, "ghost": 2, "header": 1, "comment": 1}),
        ("csv", b'id;n\na;1\n"";""\n\xef\xbb\xbf"id";"n"\n', {"ghost": 1, "header": 1}),
        ("jsonl", b'{"id":"a"}\n\n', {"blank": 1}),
    ],
)
def test_what_is_no_row_is_counted_apart(kind, data, found):
    """Blank, comment, ghost and repeated header lines are rows of nothing, and their numbers are known."""
    read = Read(kind, data)
    assert (read.ids, read.rejected, read.not_rows) == (["a"], [], Counter(found))


@pytest.mark.parametrize(
    ("kind", "data", "line", "words"),
    [
        ("csv", b"n;id\n1;;\n", 2, ["column id", "empty"]),
        ("csv", b"n;id\n1\n", 2, ["column id", "ends before it", "1 of 2"]),
        ("csv", b"x;id\n1;a;2\n", 2, ["3 cells", "quotes"]),
        ("csv", b"id;n\n1.23457E+15;a\n", 2, ["column id", "spreadsheet", "format the column as text"]),
        ("csv", b"id;n\n1,2E+12;a\n", 2, ["spreadsheet"]),
        ("csv", b"id;n;m\na;1;2\nRE-20", 3, ["column id", "ends in this cell"]),
        ("csv", b'n;id\n"x"y;a\n', 2, ["expected after"]),
        ("csv", "id;n\na\ufffd;1\n".encode(), 2, ["column id", "U+FFFD"]),
        ("txt", b"a\n1.5E+9\n", 2, ["spreadsheet"]),
        ("txt", b"a\nb\x0cc\n", 2, ["U+000C"]),
        ("jsonl", b'"a"\n{"id":1e15}\n', 2, ["member id", "as a string"]),
        ("jsonl", b'"a"\n{"id":"x","id":"y"}\n', 2, ["member id", "twice"]),
        ("jsonl", b'"a"\n{"no":1}\n', 2, ["no member id", "--column"]),
    ],
)
def test_what_is_rejected_says_row_cell_and_fix(kind, data, line, words):
    """A row that names no invoice is rejected under its line, with the cell and what is wrong there."""
    ((number, message),) = Read(kind, data).rejected
    assert number == line
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("csv", b"Invoice list;;\n\nid;n;m\na;1;2\n", ["line 1 is taken for the header", "stands above"]),
        ("csv", b"Invoice list\nid;n\na;1\n", ["line 1, 'Invoice list'", "line 2 has several"]),
        ("csv", b"id;x;id\na;1;b\n", ["more than one column is called 'id'"]),
        ("csv", "id;Empf\u00e4nger\na;1\n".encode("cp1252"), ["not UTF-8", "--encoding windows-1252"]),
        ("csv", "id;n\na;1\nb;M\u00fcller\n".encode("cp1252"), ["line 3, column n", "fc", "--encoding windows-1252"]),
        ("csv", "id;n\nRE-\u00c4;1\n".encode("cp1252"), ["line 2, column id", "c4", "--encoding windows-1252"]),
        ("txt", b"id\na\n", ["line 1 looks like a table", "--format csv"]),
        ("txt", b"# x\nsep=;\na\n", ["line 2 looks like a table"]),
        ("txt", b"a|b|c\n", ["line 1 looks like a table", "--format txt"]),
        ("txt", b'{"id":"a"}\n', ["line 1 looks like JSON", "--format jsonl"]),
        ("jsonl", b'[\n{"id":"a"},\n{"id":"b"}\n]\n', ["line 1 begins a JSON array", "jq -c '.[]'"]),
        ("jsonl", b'[{"id":"a"}]', ["a JSON array"]),
        ("jsonl", b'{\n  "id": "a"\n}\n', ["over several lines", "jq -c '.'"]),
        ("jsonl", b'{"data":[{"id":"a"}],"meta":{}}\n', ["under data", "jq -c '.data[]'"]),
        ("jsonl", '"a"\n{"id":"b","n":"M\u00fcller"}\n'.encode("cp1252"), ["line 2", "--encoding windows-1252"]),
    ],
)
def test_what_is_no_such_list_is_refused_with_the_fix(kind, data, words):
    """An input that as a whole is something else is refused before a row is handed out."""
    with pytest.raises(UsageError) as refused:
        Read(kind, data)
    assert all(word in str(refused.value) for word in words), refused.value


def test_cells_nobody_needs_do_not_decide():
    """A name that was cut in a letter, among names that are UTF-8, costs neither the row nor the night; it is told."""
    data = "id;n\na;M\u00fcller\n".encode() + b"b;M\xc3\nc;x\n"
    read = Read("csv", data)
    assert (read.ids, read.rejected) == (["a", "b", "c"], [])
    assert read.rows[1].fields == {"n": "M\\xc3"}
    assert len(read.told) == 1
    assert "line 3, column n" in read.told[0]
    needed = Read("csv", data, needed=["n"])
    assert needed.ids == ["a", "c"]
    assert "column n: not UTF-8" in needed.rejected[0][1]


def test_a_damaged_id_is_rejected_with_its_cell():
    """An ID that is not UTF-8 is never guessed at, in a table as in an object."""
    assert "column id: not UTF-8" in Read("csv", "id;n\na;\u00fc\n".encode() + b"b\xe4;1\n").rejected[0][1]
    read = Read("jsonl", '{"id":"\u00fc"}\n'.encode() + b'{"id":"b\xe4"}\n{"id":"c","n":"\xe4"}\n')
    assert read.ids == ["\u00fc", "c"]
    assert "member id: not UTF-8" in read.rejected[0][1]
    assert read.rows[2].fields == {"n": "\\xe4"}


def test_columns_of_one_name_are_told_apart_and_must_not_be_needed():
    """Nobody asked for them, so they are kept under two names; a key that needs one could mean either."""
    data = b"id,x,x\na,1,2\n"
    assert Read("csv", data).rows[0].fields == {"x": "1", "x (2)": "2"}
    with pytest.raises(UsageError, match="more than one column is called 'x'"):
        Read("csv", data, needed=["x"])


def test_where_cells_are_uncertain_the_row_has_no_fields():
    """A row with a cell too many is certain of its ID alone, and of no use where another column is needed."""
    data = b"id;name;n\na;Smith; Jones;1\n"
    assert Read("csv", data).rows[0].fields == {}
    assert Read("csv", data, needed=["n"]).ids == []


def test_numbers_keep_their_digits():
    """A number is what was written: no digit is lost, none is added, and no notation changed."""
    data = b'{"id":9007199254740993,"a":1e15,"b":20240001.0,"c":1.10,"d":1e999,"e":12345678901234567890123}\n'
    (row,) = Read("jsonl", data).rows
    assert row.invoice_id == "9007199254740993"
    assert row.fields == {
        "a": "1e15", "b": "20240001.0", "c": "1.10", "d": "1e999", "e": "12345678901234567890123",
    }  # fmt: skip


@pytest.mark.parametrize(
    "data", [b"id;n\nA-1;1\rA-2;2\rA-3;3\n", b"id;n\r\nR-1;a\rR-2;b\nR-3;c\r\n", b"id;n\nA-1;1\nid;n\rR-1;a\rR-2;b\r"]
)
def test_rows_that_line_ends_of_two_kinds_run_together_are_not_swallowed(data):
    """Whatever stands behind the carriage return may be an invoice: the whole is rejected, with the fix."""
    read = Read("csv", data)
    assert [message for _, message in read.rejected if "line ends of two kinds" in message]
    assert not {"A-2", "R-2", "id"} & set(read.ids)

"""Manifest rows as lines of JSON, and back."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from bulkfetch.errors import DamagedManifest, UsageError
from bulkfetch.models import ROW_VERSION, Row
from bulkfetch.text import printable

BLOCK_BYTES = 1 << 20

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Row)


class _Versioned(msgspec.Struct):
    v: int


_version_decoder = msgspec.json.Decoder(_Versioned)


def encode_rows(rows: Sequence[Row]) -> bytes:
    """One line of JSON for each of `rows`, with every key; only a correction row has `corrects`, and a `SkippedRow` has
    only the keys that say something."""
    return _encoder.encode_lines(rows)


def decode_row(line: bytes) -> Row:
    """The row in `line`.

    Raises:
        ValueError: it is not a row.
        UsageError: a newer bulkfetch wrote it.
    """
    refuse_newer(line, ROW_VERSION)
    return _decoder.decode(line)


def are_rows(data: bytes) -> bool:
    """Whether `data` is whole rows and nothing else.

    Raises:
        UsageError: a newer bulkfetch wrote them.
    """
    refuse_newer(data.partition(b"\n")[0], ROW_VERSION)
    return data.endswith(b"\n") and _decode_block(data) is not None


def refuse_newer(data: bytes, known: int) -> None:
    """Raise a UsageError if the JSON object in `data` has a version above `known`; anything else passes."""
    try:
        version = _version_decoder.decode(data).v
    except ValueError:
        return
    if version > known:
        raise UsageError(
            f"this archive was written by a newer bulkfetch (version {version} of its manifest, known is {known}): "
            "upgrade bulkfetch"
        )


def read_rows(path: Path, start: int = 0, end: int | None = None) -> Iterator[tuple[list[Row], int]]:
    """The rows of a manifest from byte `start` to `end`, in order. They come in blocks of about 1 MiB, each with the
    offset where it ends. Without `end`, to the file's end.

    Raises:
        DamagedManifest, UsageError, OSError: as in `read_blocks`.
    """
    return ((rows, offset) for rows, _, offset in read_blocks(path, start, end))


def read_blocks(path: Path, start: int = 0, end: int | None = None) -> Iterator[tuple[list[Row], bytes, int]]:
    """As `read_rows`, but each block comes with its lines as they are in the file, too.

    Raises:
        DamagedManifest: a line is not a whole row; the message names file and line.
        UsageError: a newer bulkfetch wrote a row.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(start)
        offset = start
        while end is None or offset < end:
            block = file.read(BLOCK_BYTES if end is None else min(BLOCK_BYTES, end - offset))
            if not block:
                return
            block += file.readline() if not block.endswith(b"\n") else b""
            rows = _decode_block(block)
            if rows is None:
                raise _damaged(path, offset, block)
            offset += len(block)
            yield rows, block, offset


def read_whole_rows(
    path: Path, start: int, end: int, damaged: Callable[[int], None]
) -> Iterator[tuple[list[Row], bytes, int]]:
    """As `read_blocks`, but a line that is no row that this version knows is left out, and its number (1-based) told to
    `damaged`.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(start)
        offset = start
        while offset < end and (block := file.read(min(BLOCK_BYTES, end - offset))):
            block += file.readline() if not block.endswith(b"\n") else b""
            for rows, lines, after in _good_stretches(path, offset, block, damaged):
                yield rows, lines, offset + after
            offset += len(block)


def _good_stretches(
    path: Path, offset: int, block: bytes, damaged: Callable[[int], None]
) -> Iterator[tuple[list[Row], bytes, int]]:
    """The rows of `block`, each stretch with its lines and where it ends in the block."""
    if (rows := _decode_block(block)) is not None:
        yield rows, block, len(block)
        return
    good: list[Row] = []
    lines: list[bytes] = []
    end, before = 0, _lines_before(path, offset)
    for number, bare in enumerate(block.removesuffix(b"\n").split(b"\n"), before + 1):
        line = block[end : end + len(bare) + 1]
        row = _decode_block(line) if line.endswith(b"\n") else None
        if row is None:
            damaged(number)
            if good:
                yield good, b"".join(lines), end
            good, lines = [], []
        else:
            good += row
            lines.append(line)
        end += len(line)
    if good:
        yield good, b"".join(lines), end


def _decode_block(block: bytes) -> list[Row] | None:
    try:
        rows = _decoder.decode_lines(block)
    except ValueError:
        return None
    # Any whitespace parts two values for the decoder, so the lines are counted.
    if len(rows) != block.count(b"\n") or any(row.v != ROW_VERSION for row in rows):
        return None
    return rows


def _damaged(path: Path, offset: int, block: bytes) -> DamagedManifest | UsageError:
    """The error for the first line of `block`, which begins at `offset`, that is not a whole row."""
    for number, line in enumerate(block.splitlines(keepends=True), _lines_before(path, offset) + 1):
        try:
            if line.endswith(b"\n") and decode_row(line).v == ROW_VERSION:
                continue
        except UsageError as newer:
            return newer
        except ValueError:
            pass
        return DamagedManifest(
            f"the manifest {printable(str(path))} is damaged in line {number}: it is not a whole row"
        )
    return DamagedManifest(f"the manifest {printable(str(path))} is damaged: its lines are not one row each")


def _lines_before(path: Path, offset: int) -> int:
    lines = 0
    with path.open("rb") as file:
        while offset > 0:
            block = file.read(min(BLOCK_BYTES, offset))
            if not block:
                break
            lines += block.count(b"\n")
            offset -= len(block)
    return lines

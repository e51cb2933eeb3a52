"""Unpacking: bounded, whole, or an error."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.errors import FatalError
from bulkfetch.sources.files.unpack import BLOCK, Unpacker


def unpack(name, *blocks):
    """All that comes out of `blocks`."""
    unpacker = Unpacker(name)
    parts = [part for block in blocks for part in unpacker.feed(block)]
    return b"".join([*parts, unpacker.finish()])


@given(
    members=st.lists(st.binary(max_size=200).map(lambda data: data * 500), min_size=1, max_size=4),
    size=st.sampled_from([1, 7, 100, BLOCK]),
    padding=st.sampled_from([b"", b"\0\0"]),
)
def test_members_unpack_to_one_text(members, size, padding):
    """However many members, cut into whatever blocks, padded or not: what was packed comes out."""
    data = b"".join(gzip.compress(member) + padding for member in members)
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    assert unpack("ids.txt.gz", *blocks) == b"".join(members)
    assert unpack("-", *blocks) == b"".join(members)


@given(data=st.binary(max_size=50).filter(lambda data: not data.startswith(b"\x1f\x8b")), size=st.integers(1, 50))
def test_plain_bytes_pass(data, size):
    """What does not begin as gzip does passes unchanged, in whatever blocks it comes."""
    assert unpack("ids.txt", *(data[at : at + size] for at in range(0, len(data), size))) == data


def test_a_bomb_comes_out_in_bounded_parts():
    """A block that unpacks to a thousand times its size comes out a block at a time."""
    unpacker = Unpacker("ids.txt.gz")
    sizes = [len(part) for part in unpacker.feed(gzip.compress(b"\0" * 20_000_000))]
    assert sum(sizes) == 20_000_000
    assert max(sizes) <= BLOCK


@pytest.mark.parametrize("cut", [1, 5, 15, -9, -1])
def test_a_cut_file_is_an_error(cut):
    """A gzip file without its end is never taken for a shorter input."""
    with pytest.raises(FatalError, match=r"ids\.txt\.gz.*ends too early"):
        unpack("ids.txt.gz", gzip.compress(b"a\n" * 1000)[:cut])


@pytest.mark.parametrize("tail", [b"rubbish", b"\0rubbish", b"\x1f\x8b\x08rubbish"])
def test_rubbish_after_the_end_is_an_error(tail):
    """Bytes after the last member that are no member are damage, not decoration."""
    with pytest.raises(FatalError, match=r"ids\.txt\.gz"):
        unpack("ids.txt.gz", gzip.compress(b"a\n") + tail)


def test_a_flipped_byte_is_an_error():
    """The checksum of a member is checked."""
    data = bytearray(gzip.compress(b"a\n" * 1000))
    data[-6] ^= 1
    with pytest.raises(FatalError, match="incorrect data check"):
        unpack("ids.txt.gz", bytes(data))


def test_nothing_is_held_back():
    """Bytes that could be unpacked are, even where a part was full and the packed bytes were used up."""
    packed = gzip.compress(b"\0" * (BLOCK + 1))
    assert sum(map(len, Unpacker("ids.txt.gz").feed(packed[:-8]))) == BLOCK + 1

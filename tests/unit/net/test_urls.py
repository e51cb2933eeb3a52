"""How a URL is spelt when it is sent."""

import pytest
from yarl import URL

from bulkfetch.net.urls import redirected, sendable

FROM = URL("https://h.example:8443/a/b?x=1")


@pytest.mark.parametrize(
    ("text", "authority", "target"),
    [
        ("https://h.example/a%2Bb%20c//d/../%7e~%41%c3?", "h.example", "/a%2Bb%20c//d/../%7e~%41%c3?"),
        ("https://h.example?", "h.example", "/?"),
        ("https://h.example/?=&&x=%zz#part", "h.example", "/?=&&x=%zz"),
        ("\t https://h.example/a b\tc\r\n", "h.example", "/a%20b%09c"),
        ("https://h.example/\u00dc/\udcfc\x7f", "h.example", "/%C3%9C/%FC%7F"),
        ("https://m\u00fcller.example/\u00fc", "xn--mller-kva.example", "/%C3%BC"),
        ('https://h.example/[]|{}^`<>"\\', "h.example", '/[]|{}^`<>"\\'),
    ],
)
def test_what_can_be_sent_stays(text, authority, target):
    """Every byte of path and query, in its case; only blanks, controls and what is not ASCII are encoded."""
    url = sendable(text)
    assert (url.raw_authority, url.raw_path_qs) == (authority, target)


@pytest.mark.parametrize(
    "text", ["https://h/a\nb", "https://h/a\r\nX: y", "https://h/\r", "http://[::1", "https://h/\ud800"]
)
def test_what_is_refused(text):
    """A line break inside, whatever it is for, and what is no URL."""
    if text.endswith("\r"):
        assert sendable(text).raw_path_qs == "/"
    else:
        with pytest.raises(ValueError):
            sendable(text)


@pytest.mark.parametrize(
    ("location", "url", "target"),
    [
        ("https://o.example/a//b/../c?", "https://o.example/a//b/../c", "/a//b/../c?"),
        ("//o.example/%7e", "https://o.example/%7e", "/%7e"),
        ("/x//y/../z%2f", "https://h.example:8443/x//y/../z%2f", "/x//y/../z%2f"),
        ("c%2fd?y=%2B", "https://h.example:8443/a/c%2fd?y=%2B", "/a/c%2fd?y=%2B"),
        ("../c?", "https://h.example:8443/c", "/c?"),
        ("?y=1", "https://h.example:8443/a/b?y=1", "/a/b?y=1"),
    ],
)
def test_where_a_redirect_leads(location, url, target):
    """A Location is taken as it stands, whole or relative."""
    led = redirected(FROM, location)
    assert (str(led), led.raw_path_qs) == (url, target)

"""What the billing API says: the link in its answer, or the details of an error, with all secrets removed."""

import re

import aiohttp
import msgspec
from yarl import URL

from bulkfetch.errors import Reason, UnexpectedAnswer
from bulkfetch.models import Secret
from bulkfetch.text import printable

MAX_ANSWER = 64 * 1024
"""Bytes of an answer that are read; a longer one is outside the contract."""

# A URL within a word, with host and port as the group, and the sign after a name; both may be percent-encoded.
_URL = re.compile(r"(?:://|%3A%2F%2F)(?:[^/?#]*@)?([\w.-]*(?::[0-9]+)?).*", re.IGNORECASE)
_EQUALS = re.compile("%3D", re.IGNORECASE)


async def read_answer(response: aiohttp.ClientResponse) -> bytes:
    """The answer's body. A body of more than `MAX_ANSWER` bytes comes cut, but is still longer than that. aiohttp's
    errors go through."""
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > MAX_ANSWER:
            response.close()
            break
    return bytes(body)


class _Answer(msgspec.Struct):
    url: str | None = None
    # Other endpoints of the API wrap their single object in `data`; the contract of this one shows it bare.
    data: "_Answer | None" = None


def link_in(response: aiohttp.ClientResponse, body: bytes) -> str:
    """The link in the `body` of an answer with status 200.

    Raises:
        UnexpectedAnswer: the body holds none; nothing of it is quoted.
    """
    problem = None
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        problem = "an encoded body that was not asked for"
    elif len(body) > MAX_ANSWER:
        problem = "more than 64 KiB"
    else:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            kind = printable(response.headers.get("Content-Type", "no content type"), 60)
            problem = f"no JSON object of the contract ({kind})"
        else:
            url = answer.url or (answer.data.url if answer.data else None)
            if url:
                return url
            problem = "no url in it"
    raise UnexpectedAnswer(Reason.BAD_RESPONSE, f"HTTP 200 from the API with {problem}", http_status=200)


class _Violation(msgspec.Struct, rename="camel"):
    property_path: str = ""
    message: str = ""


class _Problem(msgspec.Struct):
    """The members in which API Platform and similar frameworks put an error's text; all of them are optional."""

    detail: str | None = None
    title: str | None = None
    message: str | None = None
    description: str | None = msgspec.field(default=None, name="hydra:description")
    error: str | None = None
    violations: list[_Violation] = []


def _problem(body: bytes) -> _Problem:
    try:
        return msgspec.json.decode(body[:MAX_ANSWER], type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Problem()


def error_detail(body: bytes, token: Secret) -> str:
    """The server's own text about an error, without secrets and at most 400 characters; empty if there is none."""
    problem = _problem(body)
    detail = problem.detail or problem.title or problem.message or problem.description or problem.error or ""
    if not detail and problem.violations:
        detail = "; ".join(f"{v.property_path}: {v.message}" for v in problem.violations)
    # A server may quote the token, the link or another URL; a query can be a credential.
    shown = detail.replace(token.reveal(), "***").split()
    return printable(" ".join(_without_secret(word) for word in shown), 400)


def _without_secret(word: str) -> str:
    """`word` with every URL cut down to its host, without any query, and with `***` for the value of `name=value`."""
    named, equals, _ = _EQUALS.sub("=", _URL.sub(r"://\1", word)).partition("=")
    if not equals:
        return named
    path, query, _ = named.partition("?")
    return path if query else f"{named}=***"


def refuses_seconds_valid(body: bytes) -> bool:
    """Whether the error in `body` is about the life that was asked for."""
    return any(violation.property_path == "secondsValid" for violation in _problem(body).violations)


def target_host(response: aiohttp.ClientResponse) -> str:
    """The host that a redirect leads to, for a message; the rest of its URL may be secret."""
    try:
        host = response.url.join(URL(response.headers.get("Location", ""))).host
    except ValueError:
        host = None
    return printable(host or "no valid URL", 100)

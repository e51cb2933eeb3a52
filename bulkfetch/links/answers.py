"""What the billing API says: the link in its answer, or the details of an error, with all secrets removed."""

import codecs
import json
import re
from datetime import datetime

import aiohttp
import msgspec
from yarl import URL

from bulkfetch.errors import NoLink, NotReady, Reason, TransientError, UnexpectedAnswer
from bulkfetch.models import Secret
from bulkfetch.net.headers import names_coding
from bulkfetch.net.http_errors import retry_after_of
from bulkfetch.text import printable

MAX_ANSWER = 128 * 1024
"""Bytes of an answer that are read; a longer one is outside the contract. Signed links of 60 KB occur, and JSON may
escape every other character of them."""

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


def link_in(body: bytes) -> str | None:
    """The link in the `body` of an answer that says yes; None if there is none."""
    answer = _answer(body)
    return (answer.url or (answer.data.url if answer.data else None)) if answer else None


def no_link(response: aiohttp.ClientResponse, body: bytes, *, now: datetime) -> TransientError:
    """The error for an answer that says yes, and in whose `body` there is no link; nothing of it is quoted."""
    status = response.status
    message = f"HTTP {status} from the API"
    retry_after = retry_after_of(response, now)
    if len(body) <= MAX_ANSWER and not body.strip():
        problem = f"{message} without an answer in it"
        return NotReady(Reason.NOT_READY, problem, http_status=status, retry_after=retry_after)
    if _answer(body) is not None:
        # "Being made", or another API: that shows as soon as another invoice has a link.
        problem = f"{message} with no url in it"
        return NoLink(Reason.BAD_RESPONSE, problem, http_status=status, retry_after=retry_after)
    if names_coding(response.headers.getall("Content-Encoding", [])):
        problem = "an encoded body that was not asked for"
    elif len(body) > MAX_ANSWER:
        problem = f"more than {MAX_ANSWER // 1024} KiB"
    else:
        kind = printable(response.headers.get("Content-Type", "no content type"), 60)
        problem = f"no JSON object of the contract ({kind})"
    return UnexpectedAnswer(Reason.BAD_RESPONSE, f"{message} with {problem}", http_status=status)


def _answer(body: bytes) -> _Answer | None:
    """The object in `body`, where it is one of the contract."""
    if len(body) > MAX_ANSWER:
        return None
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        try:
            return msgspec.json.decode(body, type=_Answer)
        except UnicodeDecodeError:
            # Bytes in another encoding belong to the link as they are; as surrogates they stay recognisable.
            return msgspec.convert(json.loads(body.decode("utf-8", "surrogateescape")), _Answer)
    except (ValueError, RecursionError):
        return None


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

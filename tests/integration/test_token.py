"""Where the token comes from, and its renewal when the API refuses it in the middle of a run."""

import os
import sys

import anyio
import pytest
from support.edges import CANARIES, TOKEN, assert_keeps_secrets, environment_token, minting
from support.fault_server import fault_server, reply

from bulkfetch.errors import BulkfetchError, FatalError, UsageError
from bulkfetch.links import token as credentials
from bulkfetch.links.token import TokenSource
from bulkfetch.models import Secret

pytestmark = pytest.mark.anyio


def from_file(path, warn=lambda message: None):
    return TokenSource(value=None, file=str(path), command=(), warn=warn)


def from_command(*command):
    return TokenSource(value=None, file="", command=command, warn=lambda message: None)


def token_file(tmp_path, text=TOKEN, mode=0o600):
    path = tmp_path / "token"
    path.write_bytes(text.encode())
    path.chmod(mode)
    return path


def accepting(token):
    """An answer that grants a link for `token` alone."""

    def answer(request):
        granted = request.headers["authorization"] == f"Bearer {token}"
        return reply(200, b'{"url": "https://files.example/x"}') if granted else reply(401)

    return answer


async def mint_many(minter, count=64):
    """What each of `count` mints at once comes to."""
    outcomes = []

    async def one(number):
        try:
            outcomes.append(await minter.mint(f"INV-{number}"))
        except BulkfetchError as error:
            assert_keeps_secrets(error)
            outcomes.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(one, number)
    return outcomes


def counting_command(tmp_path):
    """A command that prints what is in `token` and notes that it ran, and a function that tells how often it did."""
    runs = tmp_path / "runs"
    token = tmp_path / "token"
    command = ("/bin/sh", "-c", f"echo run >> '{runs}'; cat '{token}'")
    return from_command(*command), lambda: runs.read_text().count("run")


async def test_64_refused_mints_run_the_command_once(tmp_path):
    """A token that expires under 64 mints in flight is renewed exactly once, and every mint succeeds."""
    token_file(tmp_path, "old")
    token, runs = counting_command(tmp_path)
    async with fault_server() as api, minting(api.url, token=token) as minter:
        api.on("/", accepting("old"))
        await minter.mint("INV-1")
        token_file(tmp_path, "new")
        api.on("/", accepting("new"))
        outcomes = await mint_many(minter)
        assert not [outcome for outcome in outcomes if isinstance(outcome, BulkfetchError)]
        assert runs() == 2


async def test_the_file_is_read_again(tmp_path):
    """A token file that was rotated in the middle of a run is taken up when the old token is refused, not before."""
    path = token_file(tmp_path, "old\n")
    async with fault_server() as api, minting(api.url, token=from_file(path)) as minter:
        api.on("/", accepting("old"))
        await minter.mint("INV-1")
        token_file(tmp_path, "new\n")
        await minter.mint("INV-2")
        api.on("/", accepting("new"))
        outcomes = await mint_many(minter)
        assert not [outcome for outcome in outcomes if isinstance(outcome, BulkfetchError)]


async def test_a_renewal_that_brings_the_same_token_stops_the_run(tmp_path):
    """Where the place still holds the refused token, every mint stops the run, and the command is not run for each."""
    token_file(tmp_path)
    token, runs = counting_command(tmp_path)
    async with fault_server() as api, minting(api.url, token=token) as minter:
        api.on("/", reply(401))
        outcomes = await mint_many(minter)
        assert {type(outcome) for outcome in outcomes} == {FatalError}
        assert runs() == 2


async def test_a_new_token_that_is_refused_too_stops_the_run(tmp_path):
    """One renewal an attempt: a second 401 is final, and says that nothing was marked as failed."""
    path = token_file(tmp_path, "old")
    async with fault_server() as api, minting(api.url, token=from_file(path)) as minter:
        api.on("/", accepting("old"))
        await minter.mint("INV-1")
        token_file(tmp_path, "new")
        api.on("/", reply(401))
        with pytest.raises(FatalError, match="no invoice was marked as failed"):
            await minter.mint("INV-2")
        used = [request.headers["authorization"] for request in api.requests[1:]]
        assert used[:2] == ["Bearer old", "Bearer new"]
        # Then the invoice that was answered before is refused as well.
        assert [request.target.split("/")[2] for request in api.requests[3:]] == ["INV-1"]


async def test_a_token_from_the_environment_cannot_be_renewed():
    """With a fixed value one 401 stops the run, with one request."""
    async with fault_server() as api, minting(api.url, token=environment_token()) as minter:
        api.on("/", reply(401))
        with pytest.raises(FatalError):
            await minter.mint("INV-1")
        assert len(api.requests) == 1


async def test_precedence(tmp_path):
    """The environment wins over the command, the command over the file."""
    path = token_file(tmp_path, "file")
    places = {"value": Secret("environment"), "file": str(path), "command": ("echo", "command")}
    for name in ("value", "command", "file"):
        source = TokenSource(**{"value": None, **places}, warn=lambda message: None)
        assert (await source.current()).reveal() == {"value": "environment"}.get(name, name)
        places[name] = None if name == "value" else ()


@pytest.mark.parametrize("text", ["", "\n \n", "two words", "t\u00f6ken", "a\nb", "x" * 20_000, "a\x00b", "\x1b[31m"])
async def test_what_is_no_token(tmp_path, text):
    """A file that holds anything but one printable ASCII word is refused, and its content is not shown."""
    path = token_file(tmp_path, text and "eyJCANARY" + text)
    if not text.strip():
        path.write_text(text)
    with pytest.raises(UsageError, match=r"api\.token_file") as caught:
        await from_file(path).current()
    assert_keeps_secrets(caught.value)


@pytest.mark.parametrize(
    ("mode", "accepted", "warned"),
    [(0o600, True, False), (0o400, True, False), (0o640, True, True), (0o644, False, False), (0o604, False, False)],
)
async def test_the_mode_of_the_file(tmp_path, mode, accepted, warned):
    """A token that everybody can read is refused, one that the group can read is used with a warning."""
    warnings = []
    source = from_file(token_file(tmp_path, mode=mode), warnings.append)
    if accepted:
        assert (await source.current()).reveal() == TOKEN
    else:
        with pytest.raises(UsageError, match="chmod 600"):
            await source.current()
    assert bool(warnings) is warned


async def test_a_missing_file(tmp_path):
    """The message names the setting, the file and the system's word."""
    with pytest.raises(UsageError, match=r"api\.token_file \(.*nowhere\) cannot be read: No such file"):
        await from_file(tmp_path / "nowhere").current()


def test_no_place_at_all():
    """Without any token the message lists the three places."""
    with pytest.raises(UsageError, match=r"BULKFETCH_TOKEN, api\.token_file or api\.token_command"):
        from_file("")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/nonexistent/vault"], r"\(/nonexistent/vault\) cannot be run: No such file"),
        ([sys.executable, "-c", "import sys; sys.exit('eyJCANARY on stderr')"], "exit code 1"),
        ([sys.executable, "-c", "print('eyJCANARY two')"], "one word"),
        (["true"], "holds no token"),
    ],
)
async def test_a_command_that_fails(capfd, command, said):
    """The message names the program and what went wrong; arguments and output, which may hold secrets, stay out."""
    with pytest.raises(UsageError, match=said) as caught:
        await from_command(*command).current()
    assert_keeps_secrets(caught.value)
    assert capfd.readouterr() == ("", "")


async def test_a_command_that_hangs(monkeypatch):
    """A command has a deadline, and it is ended then."""
    monkeypatch.setattr(credentials, "COMMAND_TIMEOUT", 0.2)
    with pytest.raises(UsageError, match="took longer"), anyio.fail_after(10):
        await from_command("sleep", "60").current()


async def test_no_shell_is_involved(tmp_path):
    """Arguments reach the command as they are: nothing in them is run, and no input is waited for."""
    planted = tmp_path / "planted"
    assert (await from_command("echo", f"$(touch${{IFS}}{planted});x").current()).reveal().startswith("$(touch")
    assert not planted.exists()
    with pytest.raises(UsageError, match="holds no token"):
        await from_command("cat").current()


def test_a_secret_shows_itself_to_nobody():
    """Text, repr and every kind of formatting print stars."""
    secret = Secret(TOKEN)
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r}", repr([secret]), str({"t": secret})]
    assert not [text for text in shown for canary in CANARIES if canary in text]
    assert secret.reveal() == TOKEN
    assert secret == Secret(TOKEN) != Secret("other")


async def test_the_token_is_in_no_argument_of_a_process(tmp_path):
    """The command inherits no token: nothing of it is in its arguments or environment."""
    path = token_file(tmp_path)
    await from_file(path).current()
    told = await anyio.run_process([sys.executable, "-c", "import os; print(dict(os.environ))"])
    assert not [canary for canary in CANARIES if canary in told.stdout.decode() + " ".join(os.environ)]

"""docs/deploy: each file is checked by its own tool, and bulkfetch takes every flag and variable that they use."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from bulkfetch import config
from bulkfetch.cli import main
from bulkfetch.errors import ExitCode

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "docs" / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
MANIFESTS = sorted((DEPLOY / "kubernetes").iterdir())
TEXT = ROOT / "docs" / "deploy.md"
PROGRAM = "/opt/bulkfetch/bin/bulkfetch"

KUBERNETES = ["1.29.0", "1.31.0", "1.34.0", "1.37.0"]
"""Some of those that kubernetes-validate carries (1.25 to 1.37). The schemas of 1.26 to 1.28 demand onPodConditions in
each rule of a podFailurePolicy, beside onExitCodes, which excludes it."""


def unit(name: str) -> Mapping[str, list[str]]:
    """A unit's settings, all sections together; continued lines are joined."""
    found: dict[str, list[str]] = {}
    text = (DEPLOY / "systemd" / name).read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if "=" in line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def manifest(name: str) -> Any:
    return yaml.safe_load((DEPLOY / "kubernetes" / name).read_text("utf-8"))


def container(name: str) -> Any:
    spec = manifest(name)["spec"]
    (only,) = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]["containers"]
    return only


def commands() -> Iterator[list[str]]:
    """Every command line of bulkfetch in units, manifests and text, program name included."""
    for path in UNITS:
        for line in unit(path.name).get("ExecStart", []):
            yield shlex.split(line)
    for path in MANIFESTS:
        if manifest(path.name)["kind"] != "ScaledObject":
            yield container(path.name)["command"]
    for block in re.findall(r"^```.*?$(.*?)^```$", TEXT.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("bulkfetch "):
                yield shlex.split(line, comments=True)


def flag(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def parsed(words: list[str]) -> click.Context:
    """What click makes of a command line, without running it."""
    context, command = click.Context(main, info_name=words[0]), main
    rest = words[1:]
    while isinstance(command, click.Group):
        name, *rest = rest
        command = command.get_command(context, name)
        assert command, f"there is no command {name}"
    return command.make_context(words[1], rest, parent=context)


def systemd_analyze() -> str:
    """The program; without it a test is skipped, but not where everything has to be tested."""
    found = shutil.which("systemd-analyze")
    if found is None:
        if os.environ.get("CI"):  # not an assertion: its report would show the whole environment
            pytest.fail("systemd-analyze is missing: .ci/run installs it where it may")
        pytest.skip("systemd-analyze is not installed")
    return found


def rendered(directory: Path) -> list[Path]:
    """The units, with a program that exists: systemd looks for it."""
    for path in UNITS:
        text = path.read_text("utf-8").replace(PROGRAM, os.path.realpath(sys.executable))
        (directory / path.name).write_text(text, "utf-8")
    return [directory / path.name for path in UNITS]


def test_systemd_takes_the_units(tmp_path):
    """`systemd-analyze verify` has nothing to say about them: an unknown key is but a line, and exit code 0."""
    done = subprocess.run(
        [systemd_analyze(), "verify", "--man=no", *rendered(tmp_path)], capture_output=True, text=True, timeout=50
    )
    # Units of this machine that are pulled in may have complaints of their own.
    about_ours = [line for line in done.stderr.splitlines() if "bulkfetch" in line or str(tmp_path) in line]
    assert about_ours == []
    assert done.returncode == 0, done.stderr


def test_the_check_of_units_finds_what_is_wrong(tmp_path):
    """A misspelt key is found, so silence means something."""
    worker, *_ = (path for path in rendered(tmp_path) if "worker" in path.name)
    worker.write_text(worker.read_text("utf-8").replace("WatchdogSec=", "WatchdogSecs="), "utf-8")
    done = subprocess.run([systemd_analyze(), "verify", "--man=no", worker], capture_output=True, text=True, timeout=50)
    assert "WatchdogSecs" in done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_manifests(version):
    """Strictly by the API's own schema: an unknown field is an error. What KEDA defines has no schema there."""
    validate = shutil.which("kubernetes-validate", path=sysconfig.get_path("scripts"))
    assert validate, "kubernetes-validate is not installed"
    files = [path for path in MANIFESTS if manifest(path.name)["kind"] in ("CronJob", "Deployment")]
    assert len(files) == 2
    done = subprocess.run([validate, "-k", version, "--strict", *files], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("passed for resource") == 2


def test_keda_looks_at_the_queue_that_bulkfetch_makes():
    """Stream and consumer as the driver names them, and the Deployment that is there to be scaled."""
    from bulkfetch.queues.jetstream.setup import CONSUMER, StreamNames

    scaled = manifest("keda-scaledobject.yaml")
    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == manifest("deployment-worker.yaml")["metadata"]["name"]
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "nats-jetstream"
    about = trigger["metadata"]
    queues = {word.rpartition("/")[2] for words in commands() for word in words if word.startswith("nats://")}
    assert {about["stream"]} == queues == {StreamNames("invoices").stream}
    assert about["consumer"] == CONSUMER
    assert about["account"] == "$G"
    assert about["natsServerMonitoringEndpoint"].endswith(":8222")
    # KEDA takes text only.
    assert all(isinstance(value, str) for value in about.values())
    assert int(about["lagThreshold"]) > 0
    assert 0 < scaled["spec"]["maxReplicaCount"] <= 10


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_bulkfetch_takes_each_command(words):
    """click parses it, and the values of its flags are allowed."""
    assert words[0] in ("bulkfetch", PROGRAM)
    context = parsed(words)
    flags = context.meta.get("bulkfetch.cli.flags", {})
    assert config.load(ROOT / "config.example.toml", {}, flags)


def test_there_are_commands_to_check():
    """A worker and a push for each supervisor, and some in the text."""
    found = [" ".join(words[1:3]) for words in commands()]
    assert found.count("queue push") >= 2
    assert sum(name.startswith("run ") for name in found) >= 2
    assert len(found) > len(UNITS) + len(MANIFESTS) - 2


@pytest.mark.parametrize("path", [*UNITS, *MANIFESTS, TEXT], ids=lambda path: path.name)
def test_each_variable_is_known(path):
    """A BULKFETCH_ variable that is unknown ends a run before it begins; one of NATS's would be ignored in silence."""
    from bulkfetch.queues.jetstream import credentials

    known = {config.TOKEN_VARIABLE} | {f"{config.ENVIRON_PREFIX}{key.replace('.', '_').upper()}" for key in config.KEYS}
    for_nats = set(re.findall(r"\bNATS_[A-Z]+\b", Path(credentials.__file__).read_text("utf-8")))
    text = path.read_text("utf-8")
    assert set(re.findall(r"\bBULKFETCH_[A-Z_]+[A-Z]\b", text)) <= known
    assert set(re.findall(r"\bNATS_[A-Z]+\b", text)) <= for_nats


def test_the_stop_gives_the_drain_its_time():
    """Who is killed while draining has done the work in vain: the supervisor's patience is the longer one."""
    worker, deployment = unit("bulkfetch-worker@.service"), manifest("deployment-worker.yaml")
    (start,) = worker["ExecStart"]
    for drain, patience in (
        (flag(shlex.split(start), "--drain"), worker["TimeoutStopSec"][0]),
        (
            flag(container("deployment-worker.yaml")["command"], "--drain"),
            deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
        ),
    ):
        assert float(drain) + 20 <= float(patience)


def test_exit_codes_as_the_program_means_them():
    """A usage error is never tried again; the end by SIGTERM is a good one."""
    worker, nightly = unit("bulkfetch-worker@.service"), unit("bulkfetch-nightly.service")
    assert worker["SuccessExitStatus"] == [str(ExitCode.SIGTERM.value)]
    assert worker["RestartPreventExitStatus"] == [str(ExitCode.USAGE.value)]
    assert nightly["RestartPreventExitStatus"] == [f"{ExitCode.USAGE.value} {ExitCode.FAILED.value}"]
    job = manifest("cronjob-push.yaml")["spec"]["jobTemplate"]["spec"]
    gives_up = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert gives_up == [
        {"containerName": "push", "operator": "In", "values": [ExitCode.USAGE.value, ExitCode.FAILED.value]}
    ]
    assert container("cronjob-push.yaml")["name"] == "push"
    # Kubernetes takes a podFailurePolicy with this one only.
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_probes_ask_for_what_is_answered():
    """The port and the paths of the endpoint that the command opens."""
    worker = container("deployment-worker.yaml")
    port = int(flag(worker["command"], "--health-addr").rpartition(":")[2])
    assert worker["ports"] == [{"name": "health", "containerPort": port}]
    assert worker["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "health"}
    assert worker["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}


def test_credentials_are_where_the_variables_say():
    """A credential's file has its name below %d; a secret's below the place where it is mounted."""
    for name in ("bulkfetch-worker@.service", "bulkfetch-nightly.service"):
        settings = unit(name)
        loaded = {value.partition(":")[0] for value in settings["LoadCredential"]}
        used = {value.partition("%d/")[2] for value in settings["Environment"] if "%d/" in value}
        assert loaded == used
    worker = container("deployment-worker.yaml")
    places = {mount["mountPath"] for mount in worker["volumeMounts"]}
    (token,) = (item["value"] for item in worker["env"] if item["name"] == "BULKFETCH_API_TOKEN_FILE")
    assert str(Path(token).parent) in places


@pytest.mark.parametrize("path", [path for path in MANIFESTS if "keda" not in path.name], ids=lambda path: path.name)
def test_kubernetes_adds_no_variables(path):
    """It makes BULKFETCH_… variables of a service called bulkfetch, and bulkfetch refuses those it does not know."""
    assert '"enableServiceLinks": false' in json.dumps(manifest(path.name))


def test_the_text_names_each_file():
    """docs/deploy.md is the way to them."""
    text = TEXT.read_text("utf-8")
    assert [path.name for path in (*UNITS, *MANIFESTS) if path.name not in text] == []

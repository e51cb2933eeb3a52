"""What the other commands print, and numbers for people."""

import json

import pytest
from support.shown import HOSTILE

from bulkfetch.app import CheckResult, Plan
from bulkfetch.cli.output import human_bytes, human_seconds, print_checks, print_plan


def test_a_plan_is_a_table_or_an_object(capsys):
    """A plan is numbers and the first problems, safe to print; with --json it is one object."""
    plan = Plan(
        read=12_345, to_fetch=12_000, rejected=1, problems=[(7, f"bad {HOSTILE}"), (None, "odd")], seconds_at_rate=240.0
    )
    print_plan(plan, to_json=False)
    out = capsys.readouterr().out
    assert "to fetch        12,000\n" in out
    assert "takes at least  4 min 0 s" in out
    assert "  line 7: bad \\u001b]0;owned" in out
    assert "  odd\n" in out
    print_plan(plan, to_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["rejected"] == 1
    assert shown["problems"] == [[7, f"bad {HOSTILE}"], [None, "odd"]]


def test_checks_are_marked(capsys):
    """Each check has a line with its mark: passed, failed, or not applicable."""
    print_checks(
        [CheckResult("api", True, "200"), CheckResult("disk", False, HOSTILE), CheckResult("probe", None, "-")]
    )
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split() == ["✓", "api", "200"]
    assert second.startswith("✗  disk   \\u001b]0;owned")
    assert third.split() == ["\N{EN DASH}", "probe", "-"]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (human_bytes(0), "0 B"),
        (human_bytes(1023), "1023 B"),
        (human_bytes(1536), "1.5 KiB"),
        (human_bytes(5 * 1024**5), "5120.0 TiB"),
        (human_seconds(0.25), "0.2 s"),
        (human_seconds(59.6), "1 min 0 s"),
        (human_seconds(3599.9), "1 h 0 min"),
        (human_seconds(360_000), "100 h 0 min"),
    ],
)
def test_numbers_for_people(shown, expected):
    """Bytes have a binary unit, times their two largest units."""
    assert shown == expected

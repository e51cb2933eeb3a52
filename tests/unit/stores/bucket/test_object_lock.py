"""Retention: which settings make a rule, and until when an object is kept."""

from datetime import UTC, datetime

import pytest

from bulkfetch.errors import PermanentError, Reason, UsageError
from bulkfetch.stores.bucket.object_lock import LockSettings, RetentionRule

NOON = datetime(2024, 2, 28, 12, 0, tzinfo=UTC)


def rule(**settings) -> RetentionRule | None:
    return RetentionRule.parse(LockSettings(**settings), "archive")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"days": 1}, "needs a mode"),
        ({"column": "d", "years": 8}, "needs a mode"),
        ({"mode": "GOVERNANCE"}, "either"),
        ({"mode": "GOVERNANCE", "days": 1, "column": "d", "years": 8}, "either"),
        ({"mode": "GOVERNANCE", "column": "d"}, "together"),
        ({"mode": "GOVERNANCE", "years": 8}, "together"),
        ({"mode": "COMPLIANCE", "days": 1}, "lock_confirm"),
        ({"mode": "COMPLIANCE", "days": 1, "confirm": "yes"}, "lock_confirm"),
    ],
)
def test_settings_that_make_no_sense(settings, says) -> None:
    """A period without a mode, two periods or none, and COMPLIANCE without the bucket's name are refused."""
    with pytest.raises(UsageError, match=says):
        rule(**settings)


def test_no_settings_are_no_rule() -> None:
    """Without settings objects are left to the bucket's own default."""
    assert rule() is None


def test_compliance_confirmed() -> None:
    """With the bucket's name typed once more COMPLIANCE is taken, and is in the headers of a put."""
    headers = rule(mode="COMPLIANCE", days=1, confirm="archive").retention({}, NOON).headers()
    assert headers == {
        "x-amz-object-lock-mode": "COMPLIANCE",
        "x-amz-object-lock-retain-until-date": "2024-03-01T00:00:00Z",
    }


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("2024-02-29", "2032-03-01"),
        ("2023-02-28", "2031-03-01"),
        ("2024-12-31", "2033-01-01"),
        ("2024-02-28T23:30:00+01:00", "2032-02-29"),
        (" 2024-01-01 ", "2032-01-02"),
    ],
)
def test_years_from_a_date(text, until) -> None:
    """The lock ends with the midnight after the anniversary, leap days included."""
    retention = rule(mode="GOVERNANCE", column="d", years=8).retention({"d": text}, NOON)
    assert retention.until == datetime.fromisoformat(f"{until}T00:00:00+00:00")


def test_a_leap_day_is_never_cut_short() -> None:
    """From 29 February to a year without one the lock lasts to the end of 1 March."""
    retention = rule(mode="GOVERNANCE", column="d", years=1).retention({"d": "2024-02-29"}, NOON)
    assert retention.until == datetime(2025, 3, 2, tzinfo=UTC)


@pytest.mark.parametrize("fields", [{}, {"d": ""}, {"d": "29.02.2024"}, {"d": "2023-02-29"}, {"d": "9999-01-01"}])
def test_what_is_no_date(fields) -> None:
    """A column without a usable date fails its own invoice."""
    with pytest.raises(PermanentError) as caught:
        rule(mode="GOVERNANCE", column="d", years=8).retention(fields, NOON)
    assert caught.value.reason is Reason.INVALID_ROW


def test_what_is_over_is_not_locked() -> None:
    """An object whose retention has ended already is put without one; a store would refuse it otherwise."""
    over = rule(mode="GOVERNANCE", column="d", years=8)
    assert over.retention({"d": "2016-02-26"}, NOON) is None
    assert over.retention({"d": "2016-02-28"}, NOON) is not None

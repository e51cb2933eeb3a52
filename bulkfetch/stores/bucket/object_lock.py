"""Retention of objects (S3 Object Lock): until when an object shall be kept, and the headers that ask for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Self

from bulkfetch.errors import PermanentError, Reason, UsageError
from bulkfetch.text import printable

MODE_HEADER = "x-amz-object-lock-mode"
UNTIL_HEADER = "x-amz-object-lock-retain-until-date"


@dataclass(frozen=True, slots=True)
class Retention:
    """How long one object is locked: `until` is a midnight, UTC."""

    mode: str
    until: datetime

    def headers(self) -> dict[str, str]:
        """What a put must carry."""
        return {MODE_HEADER: self.mode, UNTIL_HEADER: self.until.strftime("%Y-%m-%dT%H:%M:%SZ")}


@dataclass(frozen=True, slots=True, kw_only=True)
class LockSettings:
    """What the configuration says of Object Lock, unchecked: each field is the key `destination.lock_<field>`."""

    mode: str = ""
    days: int = 0
    column: str = ""
    years: int = 0
    confirm: str = ""


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """The rule of a run: `days` from the day of the put, or `years` from the date in the input's `column`."""

    mode: str
    days: int
    column: str
    years: int

    @classmethod
    def parse(cls, settings: LockSettings, bucket: str) -> Self | None:
        """The rule that `settings` make; None where they make none: then the bucket's own default holds.

        Raises:
            UsageError: the keys contradict each other, or COMPLIANCE was not confirmed with the bucket's name.
        """
        by_column = bool(settings.column or settings.years)
        if not settings.mode:
            if settings.days or by_column:
                raise UsageError("destination.lock_mode: a period of retention needs a mode, GOVERNANCE or COMPLIANCE")
            return None
        if bool(settings.column) != bool(settings.years):
            raise UsageError("destination.lock_column and destination.lock_years must be given together")
        if bool(settings.days) == by_column:
            raise UsageError(
                "destination.lock_mode: give either destination.lock_days, or lock_column together with lock_years"
            )
        if settings.mode == "COMPLIANCE" and settings.confirm != bucket:
            raise UsageError(
                "destination.lock_mode: nobody can ever shorten COMPLIANCE, not even the account's owner: try "
                "GOVERNANCE first, then confirm by setting destination.lock_confirm to the bucket's name, "
                f"{printable(bucket, 80)}"
            )
        return cls(settings.mode, settings.days, settings.column, settings.years)

    def retention(self, fields: Mapping[str, str], now: datetime) -> Retention | None:
        """The retention of an object that is put at `now`; None where it would have ended already.

        A period ends with the midnight after its last day, so it is never shorter than asked for.

        Raises:
            PermanentError: `invalid_row`: the column holds no date.
        """
        if self.days:
            last = now.astimezone(UTC).date() + timedelta(days=self.days)
        else:
            last = self._anniversary(fields.get(self.column, ""))
        until = datetime.combine(last + timedelta(days=1), time(), UTC)
        return Retention(self.mode, until) if until > now else None

    def _anniversary(self, text: str) -> date:
        try:
            begin = datetime.fromisoformat(text.strip()).date()
            first_of_month = begin.replace(year=begin.year + self.years, day=1)
        except ValueError:
            raise PermanentError(
                Reason.INVALID_ROW,
                f"column {printable(self.column, 80)!r} holds {printable(text, 40)!r}: retention needs a date "
                "such as 2024-03-31",
            ) from None
        # Counted in days from the month's first, 29 February becomes 1 March: later rather than earlier.
        return first_of_month + timedelta(days=begin.day - 1)

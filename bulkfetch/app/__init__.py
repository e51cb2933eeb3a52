"""The composition root: every command's work, wired from the parts below."""

from bulkfetch.app.check import CheckResult, check_setup
from bulkfetch.app.plan import Plan, plan_archive
from bulkfetch.app.run import archive

__all__ = ["CheckResult", "Plan", "archive", "check_setup", "plan_archive"]

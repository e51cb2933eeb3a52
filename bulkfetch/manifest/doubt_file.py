"""The invoices in doubt, in a file of each run: what a run that died could not clear up is left to a later one."""

from collections.abc import Collection
from pathlib import Path

from bulkfetch.durable import disk_errors, replace_file, sync_directory

_PREFIX = "doubts-"


class DoubtFile:
    """The doubts of `run`, one ID a line, in the directory `state`. Blocks."""

    def __init__(self, state: Path, run: str) -> None:
        self._path = state / f"{_PREFIX}{run}"

    def write(self, ids: Collection[str]) -> None:
        """Have the file hold `ids`, durably; without any there is no file.

        Raises:
            FatalError: it cannot be written.
        """
        with disk_errors(f"write {self._path}"):
            if ids:
                data = "".join(f"{invoice_id}\n" for invoice_id in sorted(ids)).encode()
                replace_file(self._path, data, temporary=self._path.with_name(f"{self._path.name}.part"))
            elif self._path.exists():
                self._path.unlink()
                sync_directory(self._path.parent)

    def take_over(self) -> set[str]:
        """The doubts that other runs, all of which have ended, left behind: from here on they are this run's.

        Raises:
            FatalError: they cannot be read, or this run's file not be written.
        """
        with disk_errors(f"read {self._path.parent}"):
            left = [path for path in self._path.parent.glob(f"{_PREFIX}*") if path.suffix != ".part"]
            ids = {line for path in left for line in path.read_text().splitlines()}
            self.write(ids)
            for path in left:
                if path != self._path:
                    path.unlink()
        return ids

"""Takes back what an earlier row of the same run said: a correction row, which no input row is counted twice for."""

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from bulkfetch.events import Listener, RowCorrected
from bulkfetch.interfaces import Manifest
from bulkfetch.models import Row
from bulkfetch.pipeline.tally import Tally


class Corrections:
    """Writes the correction rows of a run. `tally` is the run's own."""

    def __init__(self, manifest: Manifest, tally: Tally, notify: Listener) -> None:
        self._manifest = manifest
        self._tally = tally
        self._notify = notify

    async def find(self, ids: Collection[str]) -> Sequence[tuple[int, Row]]:
        """The rows of this run about any of `ids`, each with its position in the manifest. A row that was corrected is
        given as corrected, under its own position."""
        return await self._manifest.find(ids)

    async def write(self, position: int, row: Row, correction: Row) -> None:
        """Record `correction`, `stored` or `failed`, in the place of `row`, which is at `position` (0 for the first) of
        the manifest. On return it is durable, counted and told.

        Raises:
            FatalError: the manifest cannot be written.
        """
        correction = replace(correction, corrects=position, invoice_id=row.invoice_id, line=row.line, fields=row.fields)
        await self._manifest.append([correction])
        self._tally.correct(row, correction)
        self._notify(RowCorrected(correction))

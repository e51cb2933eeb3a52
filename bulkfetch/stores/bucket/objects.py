"""A bucket for a thread: small whole objects, such as the parts of a manifest."""

from collections.abc import Iterator, Sequence

import obstore

from bulkfetch.models import ObjectMeta
from bulkfetch.stores.bucket.address import Bucket
from bulkfetch.stores.bucket.errors import bucket_errors, no_bucket


class BucketObjects:
    """Keeps the contract of `interfaces.Objects`. Nothing is tried again here."""

    def __init__(self, bucket: Bucket) -> None:
        self._objects = bucket.objects
        self._name = bucket.name

    def create(self, key: str, data: bytes) -> None:
        """See `interfaces.Objects.create`."""
        try:
            with bucket_errors(self._name):
                obstore.put(self._objects, key, data, mode="create", use_multipart=False)
        except FileNotFoundError:
            raise no_bucket(self._name) from None

    def replace(self, key: str, data: bytes) -> None:
        """Put `data` under `key`, durably, in place of what may be there.

        Raises:
            TransientError, FatalError: as the others.
        """
        try:
            with bucket_errors(self._name):
                obstore.put(self._objects, key, data, use_multipart=False)
        except FileNotFoundError:
            raise no_bucket(self._name) from None

    def read(self, key: str) -> bytes:
        """See `interfaces.Objects.read`."""
        with bucket_errors(self._name):
            return bytes(obstore.get(self._objects, key).bytes())

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectMeta]:
        """See `interfaces.Objects.list`."""
        pages = iter(obstore.list(self._objects, prefix, offset=after or None))
        while True:
            with bucket_errors(self._name):
                page = next(pages, None)
            if page is None:
                return
            for meta in page:
                # A store that gives `after` itself, too, would make every growing manifest look damaged.
                if meta["path"] > after:
                    yield ObjectMeta(meta["path"], meta["size"])

    def level(self, folder: str) -> tuple[Sequence[ObjectMeta], Sequence[str]]:
        """See `interfaces.Objects.level`."""
        with bucket_errors(self._name):
            found = obstore.list_with_delimiter(self._objects, folder)
        objects = [ObjectMeta(meta["path"], meta["size"]) for meta in found["objects"]]
        return objects, [f"{path.rstrip('/')}/" for path in found["common_prefixes"]]

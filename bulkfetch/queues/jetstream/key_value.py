"""The key-value buckets beside a stream: what its workers know together and could do without."""

from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import BucketNotFoundError
from nats.js.kv import KeyValue

from bulkfetch.queues.jetstream.connection import Connection


async def ensure_bucket(connection: Connection, bucket: str, *, ttl: float) -> KeyValue:
    """The key-value bucket `bucket`; if it is not there it is made, with entries that are kept for `ttl` seconds.

    Raises:
        nats.errors.Error: the server refuses, or does not answer.
    """
    try:
        return await connection.js.key_value(bucket)
    except BucketNotFoundError:
        return await connection.js.create_key_value(
            KeyValueConfig(bucket=bucket, history=1, ttl=ttl, storage=StorageType.FILE)
        )

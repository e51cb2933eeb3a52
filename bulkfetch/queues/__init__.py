"""Queues of invoices that many workers share, by URL: NATS JetStream, and Amazon SQS."""

from bulkfetch.queues.opening import is_queue, open_queue

__all__ = ["is_queue", "open_queue"]

"""Where invoice IDs come from: files, standard input, or a queue."""

from bulkfetch.sources.opening import FORMATS, open_source

__all__ = ["FORMATS", "open_source"]

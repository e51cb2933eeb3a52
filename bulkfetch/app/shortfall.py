"""Whether an input that was read to its end is the one that it should be."""

from bulkfetch.config import SourceConfig


def shortfall_of(source: SourceConfig, read: int, *, of_queue: bool = False) -> str | None:
    """What speaks against an input of `read` rows being whole, in words; None if nothing does. A queue may be empty."""
    if source.expect and read != source.expect:
        return f"{source.expect} rows were expected and {read} came"
    if not (read or of_queue or source.allow_empty):
        return "the input has no row; if that is right, add --allow-empty"
    return None

"""From expiring, authenticated invoice links to an archive that is provably complete."""


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version  # reading package metadata would double the time of `bulkfetch --help`

        return version("bulkfetch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

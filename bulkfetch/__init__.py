"""From expiring, authenticated invoice links to an archive that is provably complete."""

from importlib.metadata import version

__version__ = version("bulkfetch")

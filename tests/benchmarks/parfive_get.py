"""parfive as a user would call it: it gets URLs only, so the links are handed to it ready-made.

pip install parfive
"""

import argparse
import sys
from pathlib import Path

from parfive import Downloader, SessionConfig

if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("urls", type=Path)
    arguments.add_argument("directory", type=Path)
    arguments.add_argument("workers", type=int)
    given = arguments.parse_args()
    # One request a file, as all others do: by default parfive splits a file into five.
    downloader = Downloader(
        max_conn=given.workers, max_splits=1, progress=False, config=SessionConfig(file_progress=False)
    )
    for url in given.urls.read_text().split():
        downloader.enqueue_file(url, path=given.directory, filename=url.rpartition("/")[2])
    sys.exit(bool(downloader.download().errors))

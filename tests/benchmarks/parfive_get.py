"""parfive as a user would call it: links are handed to it ready-made. It sends a HEAD before each GET.

pip install parfive
"""

import argparse
import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("urls", type=Path)
    arguments.add_argument("directory", type=Path)
    arguments.add_argument("workers", type=int)
    given = arguments.parse_args()
    # One GET a file, as all others do: by default parfive splits a file into five.
    parfive = importlib.import_module("parfive")
    quiet = parfive.SessionConfig(file_progress=False)
    downloader = parfive.Downloader(max_conn=given.workers, max_splits=1, progress=False, config=quiet)
    for url in given.urls.read_text().split():
        downloader.enqueue_file(url, path=given.directory, filename=url.rpartition("/")[2])
    sys.exit(bool(downloader.download().errors))

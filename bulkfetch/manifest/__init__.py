"""What every run durably recorded: manifests (the truth), the ledger (their index), runs and their summaries."""

from bulkfetch.manifest.chain import read_summary
from bulkfetch.manifest.chain_check import Problem, verify_chain
from bulkfetch.manifest.ledger import LedgerIndex
from bulkfetch.manifest.rows import decode_row, encode_rows, read_rows
from bulkfetch.manifest.runs import (
    Run,
    list_runs,
    new_run_id,
    unfinished_runs,
)
from bulkfetch.manifest.writer import ManifestWriter

__all__ = [
    "LedgerIndex",
    "ManifestWriter",
    "Problem",
    "Run",
    "decode_row",
    "encode_rows",
    "list_runs",
    "new_run_id",
    "read_rows",
    "read_summary",
    "unfinished_runs",
    "verify_chain",
]

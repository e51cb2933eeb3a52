"""A local stand-in for the billing API: to rehearse a backfill, and the server of this project's own tests."""

from bulkfetch.sandbox.faults import Faults
from bulkfetch.sandbox.invoices import Document, InvoiceBook, Kind
from bulkfetch.sandbox.server import PUBLIC_TOKEN, Sandbox, SandboxSettings, serve
from bulkfetch.sandbox.stats import Stats

__all__ = [
    "PUBLIC_TOKEN",
    "Document",
    "Faults",
    "InvoiceBook",
    "Kind",
    "Sandbox",
    "SandboxSettings",
    "Stats",
    "serve",
]

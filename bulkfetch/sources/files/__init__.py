"""Lists of invoices in files, and on standard input."""

"""The text of an ID as lists hold it, beside what JSON or a plain line says exactly."""

import re

from bulkfetch.keys import check_invoice_id

_FORMULA = re.compile(r'="([^"]*)"')
_SHORTENED = re.compile(r"-?[0-9]([.,][0-9]+)?E\+[0-9]+", re.IGNORECASE)


def id_in(cell: str) -> str:
    """The ID that `cell` holds: without space around it, and without the formula `="00123"` that keeps a spreadsheet
    from taking it for a number."""
    text = cell.strip()
    formula = _FORMULA.fullmatch(text)
    return formula[1] if formula else text


def check_cell(invoice_id: str) -> str | None:
    """None if `invoice_id`, as a list holds it, is a usable ID; else what is wrong, in words that are safe to show."""
    if _SHORTENED.fullmatch(invoice_id):
        return (
            "this is a number that a spreadsheet has shortened, and digits are lost: format the column as text, and "
            "export it again"
        )
    return check_invoice_id(invoice_id)

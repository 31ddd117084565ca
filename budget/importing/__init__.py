"""Import: calls that others have recorded, into the records.

`files` reads JSON and CSV, and one small module per format (`tables`, `own`, `litellm`, `claude_code`, `codex`, `otel`)
makes calls of what it reads. `importer` prices them by the book of their day and puts them beside the records of the
ledger. A call's id follows from what names it in its source, so that what was imported before is known. Only counts,
times and names are taken: the texts of a transcript are never kept.
"""

from __future__ import annotations

from budget.importing.importer import FORMATS, Imported, import_files

__all__ = ["FORMATS", "Imported", "import_files"]

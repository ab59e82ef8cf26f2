"""Reports: from a study to one HTML page, the same in Markdown, and JSON of every number in it."""

from flexicodec.analysis.report.build import make_report
from flexicodec.analysis.report.document import Document, Figure, List, Number, Prose, Section, Table
from flexicodec.analysis.report.pages import write

__all__ = ["Document", "Figure", "List", "Number", "Prose", "Section", "Table", "make_report", "write"]

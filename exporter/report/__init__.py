"""The report on a folder of artifacts, for people (report.html), programs (report.json) and CI
(junit.xml)."""

from goldfold.exporter.report.collect import collect
from goldfold.exporter.report.pages import Report
from goldfold.exporter.report.write import after_export, write

__all__ = ["Report", "after_export", "collect", "write"]

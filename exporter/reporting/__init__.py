"""What a folder of artifacts comes to, for people (report.html), programs (report.json) and CI
(junit.xml)."""

from exporter.reporting.collect import collect
from exporter.reporting.records import Report
from exporter.reporting.write import after_export, write

__all__ = ["Report", "after_export", "collect", "write"]

"""What a folder of artifacts comes to, for people (report.html), programs (report.json) and CI
(junit.xml)."""

from exporter.reporting.collect import Report, collect
from exporter.reporting.write import after_export, write

__all__ = ["Report", "after_export", "collect", "write"]

"""`python -m exporter` is `goldfold`."""

from exporter.cli import main

main()

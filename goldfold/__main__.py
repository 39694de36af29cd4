"""`python -m goldfold` is `goldfold`."""

from goldfold.exporter.cli.app import main

main()

"""The `goldfold` command: one file per command."""

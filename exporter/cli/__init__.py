"""The `goldfold` command: one file a command."""

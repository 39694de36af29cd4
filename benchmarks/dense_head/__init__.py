"""The rooms of head.py: what is computed, what is timed, what is shown."""

"""What `python -m tests.torture` does to goldfold, a room a kind of harm; test_torture.py runs a
little of each."""

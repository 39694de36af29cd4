"""What benchmarks/torture.py does to goldfold, a room a kind of harm; tests/torture runs a little
of each."""

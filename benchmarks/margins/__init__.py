"""The parts of benchmarks/margin.py."""

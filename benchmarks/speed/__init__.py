"""What the speed benchmarks share: workers in environments of their own, the machine's limits."""

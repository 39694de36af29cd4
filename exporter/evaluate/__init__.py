"""Running a graph on this machine: sessions, emulated rounding, ranges, and batches."""

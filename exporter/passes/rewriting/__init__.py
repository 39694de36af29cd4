"""Helpers of the passes: reading patterns and writing nodes."""

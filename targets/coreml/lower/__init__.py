"""The program as MIL, op by op."""

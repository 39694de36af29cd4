"""The lowering of a program to MIL, op by op."""

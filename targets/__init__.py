"""The targets: one folder per target. They share the interface in `base.py`, and nothing else."""

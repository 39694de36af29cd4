"""One folder a target; `base.py` is the interface they share, and nothing else is shared."""

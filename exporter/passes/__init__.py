"""One file, one law. `base.py` says what a pass is; `exporter/passes/pipeline.py` says which run,
and when."""

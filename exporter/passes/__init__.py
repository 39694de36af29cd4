"""Each file here is one pass. `base.py` defines a pass; `exporter/passes/pipeline.py` defines which
passes run, and when."""

"""The compiler: from a model's folder to proved artifacts. docs/architecture.md is its map."""

__version__ = "0.1.0"

# transformers for pyright: everything is Any. Its own package names 400 models, which take a third
# of the time of `make lint` to read, and goldfold uses a handful of names of it.
from typing import Any

def __getattr__(name: str) -> Any: ...

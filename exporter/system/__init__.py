"""The operating system: files and their names, signals, native libraries, and the cache folder."""

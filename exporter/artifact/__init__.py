"""The artifact folder: its manifest, its files, the encoder that runs it, and the operations on
it."""

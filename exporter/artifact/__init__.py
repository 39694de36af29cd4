"""The artifact folder: its manifest, its files, the encoder that runs it, and what is done with
one."""

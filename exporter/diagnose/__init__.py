"""Diagnosis of an artifact's errors: the drift after every pass and layer, and the location of a
fault."""

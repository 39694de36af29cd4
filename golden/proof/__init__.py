"""Proof that an artifact's constants follow from the model's own files.

`check` evaluates the derivations that an export wrote and compares each number with what lies in
the artifact. It imports neither `exporter` nor `targets` nor any library of a format: numpy, and
readers written from the formats' definitions.
"""

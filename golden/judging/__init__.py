"""What users feel of an artifact's errors, besides 1-cos: does it rank as the reference ranks?

`ranks` holds correlations, nDCG and quantized embeddings, `bootstrap` the upper end of a loss,
`lee` and `pairs` the data (a corpus with people's judgements; docstrings and their functions),
`reference` the fp32 embeddings and their cache, `judge` brings them together.

numpy only; the data is read from installed packages' folders, and none of them is imported.
"""

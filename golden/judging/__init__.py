"""Judging measures the effect of an artifact's errors on users, beside 1-cos: the ranking of texts;
and 1-cos on texts that nothing else reads.

`ranks` holds correlations, nDCG and quantized embeddings, `bootstrap` the upper end of a loss,
`lee` and `pairs` the data (a corpus with people's judgements; docstrings and their functions),
`reference` the fp32 embeddings and their cache, `judge` brings them together. `unseen` draws texts
by chance and holds the figures over them (`unseen_kinds`, `scripts`, `installed`,
`order_statistics`).

The package uses numpy only; the data is read from the folders of installed packages, and none of
them is imported.
"""

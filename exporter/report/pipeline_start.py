"""The file that `goldfold ci --init` writes: every key, commented."""

from __future__ import annotations

START = """\
# goldfold.toml: what `goldfold ci` exports, and what it holds the artifacts to.
# Paths are relative to this file. Options given by hand win: `goldfold ci --precision fp16`.

model = "packaged"                  # a hub id (org/name), a folder, or "packaged": a small one
# revision = "COMMIT"               # of a hub id: a commit, tag or branch; pin a commit
# name = "my-model"                 # by default the folder's, or the hub id's
# route = "query"                   # of a model that has several

targets = ["onnxruntime"]           # openvino, onnxruntime, tensorrt, coreml
precisions = ["fp32"]               # fp16, bf16, int8, ... or a recipe's file
out = "out"

# max_length = 256                  # tokens; the model's own by default
# dims = [768, 256]                 # embedding sizes (Matryoshka)
# trust_remote_code = false         # run code that comes with the model: it can do anything
# allow_incomplete = false          # a checkpoint that lacks tensors, or has extra ones
# judge = true                      # quantized artifacts: retrieval, minutes for each
# pairs = 2000                      # docstrings and functions for that
# unseen = 1000                     # texts that no golden has, compared with the source in fp32
# require_run = true                # fail where an artifact was proved, but did not run here

# texts = ["ours.txt:query"]        # your texts, gated like the goldens (docs/your-texts.md)
# column = "text"                   # of those that are JSONL, CSV or TSV
# private_texts = false             # keep digests and embeddings of them instead of the texts
# calibration_texts = ["cal.txt"]   # for integers, in place of the built-in ones

# [cut]                             # the vocabulary, to what texts need: by scripts, or by a file
# scripts = ["latin", "greek"]
# vocabulary = "corpus.txt"

# [options]                         # of the targets, as the flags of `goldfold export`
# opset = 21

# [compat]                          # may the new artifacts search a release's index?
# against = "release/out"           # its folder of artifacts, or one artifact
# texts = "ours.txt"
# limit = 0.015                     # the share of nDCG@10 that mixing may lose

# [limits]                          # of every artifact, beside the golden gate
# worst = 0.01                      # the largest 1-cos of a golden text
# mean = 0.001
# size_mb = 700
# loss = 0.02                       # upper bound of the loss in retrieval; needs judge = true

# [limits.precision.fp32]           # of a precision
# worst = 1e-8

# [limits.artifact.onnxruntime-fp32]
# size_mb = 100

# [[layouts]]                       # `goldfold layout`
# artifacts = ["onnxruntime-fp32"]
# for = "transformers.js"
# out = "site"
"""

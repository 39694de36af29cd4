"""The frontend reads a model: the folder, its settings, its weights and its tokenizer; `trace`
makes the graph."""

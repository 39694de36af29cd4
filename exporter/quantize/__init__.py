"""Quantization: recipe, statistics, parameters, Q/DQ in the graph, and the search among recipes."""

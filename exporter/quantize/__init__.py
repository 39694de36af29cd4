"""Quantization: recipes, sites, statistics, integers and steps, and the passes that place them."""

"""Quantization: recipe, sites, statistics, integers and steps, and the laws that place them."""

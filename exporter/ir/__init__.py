"""The graph that every pass sees, its dialect of ONNX, what makes a graph legal, and ONNX files."""

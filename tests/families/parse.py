"""Let TensorRT for RTX parse an ONNX file: exit code 1, and its own words, if it refuses.

python parse.py model.onnx
"""

import sys

import tensorrt_rtx


def main(path: str) -> str | None:
    """What the parser says against the file; None if nothing."""
    log = tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR)
    builder = tensorrt_rtx.Builder(log)
    network = builder.create_network(0)  # strongly typed, as every network of this compiler is
    parser = tensorrt_rtx.OnnxParser(network, log)
    if parser.parse_from_file(path):
        return None
    first = parser.get_error(0)
    words = " ".join(first.desc().split())
    return f"NVIDIA's parser refuses {first.node_operator()} ({first.node_name()}): {words}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""A trained model as files that other programs load: Hugging Face, ONNX, Triton, TensorRT."""

"""A step or a forward pass as one graph: captured by CUDA, or traced on a CPU."""

"""What pipeline/benchmark.py measures, one part per file. Of the entry points: it may import every other part."""

"""The stages of tools/gpu/probe.py, one module each: run(bench) says what it finds, and what fails does not end it."""

# Those that say right or wrong; they are also the tests of tests/gpu/test_probes.py.
CORRECTNESS = ("env", "parity", "tolerance", "cache", "graphs", "stream", "ddp", "fused")
FIGURES = ("speed", "speed_fused", "micro", "resnet50")
STAGES = (*CORRECTNESS, *FIGURES)

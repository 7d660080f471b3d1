"""TensorRT and TensorRT-RTX.

::

    build.py       a graph to an engine's file
    profiles.py    the ranges of shapes that an engine is optimized for
    summary.py     what the builder made of the graph
    runner.py      an engine's file to vectors
"""

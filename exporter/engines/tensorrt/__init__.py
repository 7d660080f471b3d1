"""TensorRT and TensorRT-RTX.

::

    build.py       a graph to an engine's file, and the file to a runner
    network.py     the parsed network: attention by lengths
    watching.py    progress, errors and log of a build
    profiles.py    the ranges of shapes that an engine is optimized for
    summary.py     what the builder made of the graph
    runner.py      an engine's file to vectors
"""

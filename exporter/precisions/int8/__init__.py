"""INT8: which MatMuls are quantized, with which ranges, and at what loss.

``matmuls`` finds them in the graph. ``observer`` collects statistics of their inputs over calibration text; ``ranges``
and ``smoothing`` turn these into scales. ``segments`` cuts the graph into sessions, with which ``emulator`` runs any assignment of int8 to
MatMuls without building an engine; ``judge`` says what it loses. ``calibrate`` chooses the scales, ``search`` an
assignment, and ``qdq`` writes it into the graph. ``scheme`` has the number formats of
each target.
"""

"""INT8: which MatMuls are quantized, with which ranges, and at what loss.

``matmuls`` finds them in the graph. ``observer`` collects statistics of their inputs over calibration text; ``ranges``
and ``smoothing`` turn these into scales, which ``calibrate`` chooses from. ``segments`` cuts the graph into sessions:
with them ``emulator`` runs any assignment of int8 to MatMuls without building an engine, and ``judge`` says what it
loses. ``search`` chooses an assignment, and ``qdq`` writes it into the graph. ``scheme`` has the number formats of each
target.
"""

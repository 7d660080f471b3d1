"""INT8: what is quantized, from which ranges, and at what loss.

``products`` finds the matrix products, ``observer`` looks at what they read over real text, ``ranges`` and
``smoothing`` turn that into scales, ``emulator`` measures any assignment of int8 to products without building an
engine, ``search`` chooses one, and ``qdq`` writes it into the graph. ``scheme`` says what each target wants.
"""

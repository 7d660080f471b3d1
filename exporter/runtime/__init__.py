"""What serving a bundle needs: tokens, the encoder, and what it asks of an engine. Nothing here imports torch or onnx.

::

    contract.py       the names of a graph's inputs and output
    facts.py          the facts of an encoder that a manifest records
    tokens.py         text to padded token ids, and batches of little padding
    runner.py         what an encoder asks of an engine
    encoder.py        text to vectors
    session.py        ONNX Runtime sessions, set up the same way everywhere
    private_file.py   bytes as a path that no other process can replace
"""

"""What serving a bundle needs: tokens, the encoder, and what it asks of an engine. Nothing here imports torch or onnx.

::

    contract.py       the names of a graph's inputs and output
    facts.py          the facts of an encoder that a manifest records
    tokens.py         text to padded token ids, and batches of little padding
    texts.py          what no tokenizer can read is refused
    vector_types.py   truncated, normalized and quantized vectors, and the ranges of int8
    evaluation.py     where evaluators of sentence-transformers leave their metrics
    similarity.py     cosine, dot product and distances
    runner.py         what an encoder asks of an engine
    token_encoder.py  token ids to vectors, in batches
    tensors.py        torch tensors of users; torch is imported on use
    encoder.py        text to vectors, with the interface of SentenceTransformer
    session.py        ONNX Runtime sessions, set up the same way everywhere
    private_file.py   bytes as a path that no other process can replace
"""

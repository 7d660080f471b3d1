"""What runs behind a server: bundles put where servers find them, and running servers compared with the checkpoint.

One folder per kind of server, and what all of them share::

    triton/          NVIDIA Triton: a model repository written, checked, and its server verified
    embeddings/      TEI and OpenAI-compatible servers as encoders, and their verification
    expected.py      what a server should answer: from a checkpoint, a bundle or a golden file
    concurrency.py   many clients at once, and whether each got its own answer
    http.py          requests over HTTP, within the limits
    peak_memory.py   the most memory that a bundle takes, measured in a process of its own
    limits.py        what a server may take: seconds and bytes
    answers.py       what a server says, told within bounds
"""

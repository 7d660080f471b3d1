"""Embedding servers: Text Embeddings Inference (TEI) and whatever has OpenAI's ``/v1/embeddings``, as encoders.

::

    options.py       how a server is asked: API, key, headers, limits
    address.py       the URL of a server
    requests.py      requests, sent again where that helps, and counted
    apis.py          the APIs: a question to JSON, JSON to vectors
    remote.py        a running server as an encoder
    probing.py       which probes a server takes
    batches.py       many texts in one request, their order, and many clients at once
    truncation.py    where a server truncates
    answering.py     prompts, lengths of vectors, dimensions, number formats, requests that must be refused
    verify.py        compare a running server with what it should answer
"""

from exporter.serving.embeddings.options import Api, ServerOptions, header_of
from exporter.serving.embeddings.remote import EmbeddingServer, RemoteServer, connect

__all__ = ["Api", "EmbeddingServer", "RemoteServer", "ServerOptions", "connect", "header_of"]

"""The Hugging Face hub: what every request to it obeys, whether a checkpoint or a bundle is asked for.

::

    names.py     what a hub id looks like, beside the paths of folders
    client.py    a sound endpoint, no credentials in messages, one sentence for every failure

Endpoint, cache, tokens and retries are those of ``huggingface_hub``, as its environment variables say. Nothing here
imports torch: bundles are loaded from the hub where only serving is installed.
"""

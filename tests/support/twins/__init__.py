"""Twins: stand-ins for the published checkpoints, for machines that cannot reach the hub.

A twin has its original's architecture, kind of tokenizer, folder layout and file formats. Those of ``TWINS`` are of
sentence-transformers 2.2 and transformers 4.21 (``pytorch_model.bin``, the old ``1_Pooling/config.json`` keys,
``vocab.txt``), those of ``MULTILINGUAL`` are of today (``model.safetensors``, ``tokenizer.json``). Its weights are
seeded and were never trained. A vector of a twin means nothing; a twin is there to show that an export computes the
same vector as PyTorch does. For that its weights must let faults be seen, which a plain random initialization does
not: with it all sentences land on nearly one vector, and an export that ignores the padding mask still scores a cosine
of 0.99. ``weights.py`` says how that is avoided, and ``tests/unit/test_twins.py`` measures it. ::

    originals.py    what tells the checkpoints from each other
    layout.py       a twin's folder and its JSON files
    tokenizer.py    a vocabulary counted from the project's own sentences, and the tokenizer's files
    names.py        what each architecture calls its parameters
    weights.py      seeded weights that let faults be seen
    multilingual.py the twins whose tokenizer is no WordPiece: XLM-R's kin, Qwen3 and Gemma 3
    subwords.py     their tokenizers: Unigram, byte-level BPE, BPE with a byte fallback
    charsmap.py     the table of characters that SentencePiece's normalization is in
    conversions.py  real BERT weights written as DistilBERT and as ALBERT

    python -m tests.support.twins ko-sbert-sts twins/ko-sbert-sts --full

Sizes, pooling, limits and lower-casing are the published ones. What the model cards leave out (activation, epsilons,
dropout, details of the tokenizers) is that of the base models' families or transformers' default, not a known fact.
"""

from tests.support.twins.layout import ALL_TWINS, build_twin
from tests.support.twins.multilingual import MULTILINGUAL
from tests.support.twins.originals import MEASURED, TWINS, WordPiece

__all__ = ["ALL_TWINS", "MEASURED", "MULTILINGUAL", "TWINS", "WordPiece", "build_twin"]

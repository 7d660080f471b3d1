"""A checkpoint that was never loaded: its tokenizer knows a few words, and its model is what a test says."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from exporter.checkpoint import Checkpoint
from exporter.checkpoint.parameters import Equality
from exporter.runtime.facts import EncoderFacts

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PAD, UNK, CLS, SEP = range(4)

FACTS = EncoderFacts(
    architecture="BertModel",
    modules=("Transformer", "Pooling"),
    pooling=("mean",),
    dimension=3,
    max_seq_length=24,
    do_lower_case=False,
    layers=12,
    heads=12,
    hidden_size=768,
)


def words_tokenizer(*words: str, padding: str = "right") -> Tokenizer:
    """Return a tokenizer to whom each word is one token, from id 4 on, between [CLS] and [SEP]."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", CLS), ("[SEP]", SEP)])
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.enable_padding(direction=padding, pad_id=PAD, pad_token="[PAD]")
    return tokenizer


def stand_in(**changes: Any) -> Checkpoint:
    """Return the checkpoint; ``changes`` are attributes of it, ``model`` among them."""
    tokenizer = words_tokenizer("밥", "국")
    attributes: dict[str, Any] = {
        "model": None,
        "source": "owner/model",
        "source_name": "the model",
        "commit": "c" * 40,
        "weights_sha256": "w" * 64,
        "files": {"config.json": "f" * 64},
        "stated_pooling": ("mean",),
        "equality": Equality(2, 8),
        "parameter_hashes": {},
        "ignored_keys": (),
        "decisions": (),
        "anchor": tokenizer,
        "tokenizer": tokenizer,
        "facts": FACTS,
        "own_max_seq_length": FACTS.max_seq_length,
        "has_token_types": True,
        "pad_token_id": PAD,
    }
    return Checkpoint(**attributes | changes)

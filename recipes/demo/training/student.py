"""The student's shape: an ALBERT, and how its hidden units are shared out."""

from __future__ import annotations

from transformers import AlbertConfig, AlbertModel

from .tokenizer import CLS_ID, MAX_SEQ_LENGTH, PAD_ID, SEP_ID, VOCAB_SIZE

EMBEDDING_SIZE = 128
HIDDEN_SIZE = 2 * EMBEDDING_SIZE
CONTENT_SIZE = EMBEDDING_SIZE - 2  # the last two embedding units carry a token's weight (see start.py)

# At the start the first half of the hidden units holds a token's own content and the second half the mean over the
# sentence. So the second half, which knows the sentence already, is given the target's major axes.
MINOR_UNITS = slice(0, CONTENT_SIZE)
MAJOR_UNITS = slice(EMBEDDING_SIZE, EMBEDDING_SIZE + CONTENT_SIZE)


def make_model(layers: int, intermediate: int) -> AlbertModel:
    """Build the untrained student: one set of layer weights, used ``layers`` times."""
    config = AlbertConfig(
        vocab_size=VOCAB_SIZE,
        embedding_size=EMBEDDING_SIZE,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=layers,
        num_hidden_groups=1,
        num_attention_heads=HIDDEN_SIZE // 32,
        intermediate_size=intermediate,
        max_position_embeddings=MAX_SEQ_LENGTH,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        type_vocab_size=2,
        pad_token_id=PAD_ID,
        bos_token_id=CLS_ID,
        eos_token_id=SEP_ID,
    )
    return AlbertModel(config, add_pooling_layer=True)

"""The folder of a twin, as sentence-transformers 2.2 and transformers 4.21 wrote it: modules, configurations, card."""

from __future__ import annotations

import zlib
from pathlib import Path

import torch

from tests.support.twins.multilingual import MULTILINGUAL, build_multilingual
from tests.support.twins.names import NAMES
from tests.support.twins.originals import TWINS, Size, SizeName, Twin
from tests.support.twins.tokenizer import corpus_texts, vocabulary, write_json, write_tokenizer
from tests.support.twins.weights import state_dict

ALL_TWINS = (*TWINS, *MULTILINGUAL)
"""The names of all twins, which are those of all recipes but the demo's."""

_VERSIONS = {"sentence_transformers": "2.2.0", "transformers": "4.21.2", "pytorch": "1.10.1"}

_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]

_CARD = """\
---
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- feature-extraction
- sentence-similarity
- transformers
---

# A twin of {checkpoint}

Same architecture, kind of tokenizer and files; **untrained weights** (seed {seed}). Its vectors mean nothing: it is for
testing exports. Made by `python -m tests.support.twins {name} FOLDER` of korsbert.
"""


def build_twin(name: str, folder: Path, size: SizeName = "small", seed: int = 0) -> Path:
    """Write the twin of one checkpoint, ready for ``SentenceTransformer(str(folder))``.

    The same arguments and the same ``tokenizer.CORPUS`` give the same files.

    Args:
        name: A key of ``TWINS`` or of ``MULTILINGUAL``.
        folder: Where to write; made if missing, files of the same names are overwritten.
        size: ``small`` for tests (about 1 MB), ``full`` for the original's (a BERT base 440 MB, the largest 2.4 GB).
        seed: Of the weights; the vocabulary does not depend on it.

    Returns:
        ``folder``.

    Raises:
        KeyError: There is no twin of that name.
    """
    if name not in ALL_TWINS:
        raise KeyError(f"no twin is called {name!r}; there are {', '.join(ALL_TWINS)}")
    folder.mkdir(parents=True, exist_ok=True)
    if name in MULTILINGUAL:
        card = _CARD.format(name=name, checkpoint=MULTILINGUAL[name].checkpoint, seed=seed)
        build_multilingual(name, folder, size, seed, card)
        return folder
    twin = TWINS[name]
    sizes: Size = {"small": twin.small, "full": twin.full}[size]
    if twin.layout == "sentence-transformers":
        _write_modules(folder, twin, sizes)
    write_json(folder / "config.json", _transformer_config(twin, sizes))
    card = _CARD.format(name=name, checkpoint=twin.checkpoint, seed=seed)
    (folder / "README.md").write_text(card, encoding="utf-8")

    write_tokenizer(folder, twin.tokenizer, vocabulary(twin.tokenizer, sizes.vocabulary, corpus_texts()))

    # The name takes part in the seed because two of them are the same in all but their weights.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name}/{size}/{seed}".encode()))
    torch.save(state_dict(twin, sizes, generator), folder / "pytorch_model.bin")
    return folder


def _write_modules(folder: Path, twin: Twin, size: Size) -> None:
    """Write the files that sentence-transformers adds to a folder of transformers."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "modules.json", _MODULES)
    write_json(folder / "1_Pooling" / "config.json", _pooling_config(twin, size))
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": twin.max_seq_length, "do_lower_case": twin.do_lower_case},
    )
    write_json(folder / "config_sentence_transformers.json", {"__version__": _VERSIONS})


def _pooling_config(twin: Twin, size: Size) -> dict[str, object]:
    """Return ``1_Pooling/config.json`` with the keys of sentence-transformers before 3.0."""
    return {
        "word_embedding_dimension": size.hidden,
        "pooling_mode_cls_token": twin.pooling == "cls",
        "pooling_mode_mean_tokens": twin.pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }


def _transformer_config(twin: Twin, size: Size) -> dict[str, object]:
    """Return ``config.json`` as transformers 4.21 wrote it for this architecture."""
    common: dict[str, object] = {
        "architectures": [NAMES[twin.architecture].model_class],
        "initializer_range": 0.02,
        "max_position_embeddings": twin.positions,
        "model_type": twin.architecture,
        "pad_token_id": twin.tokenizer.special_tokens.index("[PAD]"),
        "torch_dtype": "float32",
        "transformers_version": _VERSIONS["transformers"],
        "vocab_size": size.vocabulary,
    }
    if twin.architecture == "distilbert":
        # This one is printed on its card, with names of its own for most things.
        own: dict[str, object] = {
            "activation": "gelu",
            "attention_dropout": 0.1,
            "dim": size.hidden,
            "dropout": 0.1,
            "hidden_dim": size.feed_forward,
            "n_heads": size.heads,
            "n_layers": size.layers,
            "output_past": True,
            "qa_dropout": 0.1,
            "seq_classif_dropout": 0.2,
            "sinusoidal_pos_embds": False,
            "tie_weights_": True,
        }
        return dict(sorted((common | own).items()))
    dropout = 0 if twin.architecture == "albert" else 0.1
    own = {
        "attention_probs_dropout_prob": dropout,
        "classifier_dropout": None,
        "hidden_act": "gelu",
        "hidden_dropout_prob": dropout,
        "hidden_size": size.hidden,
        "intermediate_size": size.feed_forward,
        "layer_norm_eps": twin.layer_norm_eps,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "position_embedding_type": "absolute",
        "type_vocab_size": twin.token_types,
        "use_cache": True,
    }
    if twin.architecture == "albert":
        del own["classifier_dropout"], own["use_cache"]
        own |= {
            "bos_token_id": 2,
            "classifier_dropout_prob": 0.1,
            "down_scale_factor": 1,
            "embedding_size": size.embedding,
            "eos_token_id": 3,
            "gap_size": 0,
            "inner_group_num": 1,
            "net_structure_type": 0,
            "num_hidden_groups": 1,
            "num_memory_blocks": 0,
        }
    if twin.architecture == "roberta":
        own |= {
            "bos_token_id": 0,
            "eos_token_id": 2,
            "gradient_checkpointing": False,
            "tokenizer_class": "BertTokenizer",
        }
    return dict(sorted((common | own).items()))

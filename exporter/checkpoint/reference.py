"""The reference: a SentenceTransformer in FP32, and the facts that were read from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn

from exporter.checkpoint.parameters import Equality
from exporter.checkpoint.weights import hash_of_parameter
from exporter.errors import CheckpointError, RecipeError
from exporter.recipe import Source
from exporter.runtime.contract import INPUTS, OUTPUT
from exporter.runtime.facts import EncoderFacts
from exporter.runtime.tokens import IntArray, TextTokenizer, batches_by_length

TOKEN_BUDGET = 2048  # tokens per batch of the reference, with padding


def forward(modules: Iterable[nn.Module], ids: Tensor, mask: Tensor, *, has_token_types: bool) -> Tensor:
    """Return the vectors (batch, dimension) of (batch, sequence) int64 ids and mask, by the modules' own ``forward``.

    Token types, where the architecture has them, are 0, as for single sentences.
    """
    features = {INPUTS[0]: ids, INPUTS[1]: mask}
    if has_token_types:
        features["token_type_ids"] = torch.zeros_like(ids)
    for module in modules:
        features = module(features)
    vectors: Tensor = features[OUTPUT]
    return vectors


@dataclass(frozen=True)
class Checkpoint:
    """A SentenceTransformer in FP32 eval mode, whatever dtype was stored, and the facts read from it.

    Attributes:
        model: The reference.
        source: Where it came from, for messages: a hub id or a folder.
        source_name: What a bundle calls it: ``Recipe.source_name``.
        commit: Commit on the hub, or None for a folder.
        weights_sha256: One hash over all weight files, by relative name.
        files: SHA-256 of every file that was loaded, by relative name: weights, configuration and tokenizer.
        stated_pooling: Pooling modes that were asked for because the folder states none, or None.
        equality: What was found equal to the weight files, bit for bit.
        parameter_hashes: SHA-256 of the numbers of each parameter when that was found, and of each buffer, by the
            model's own names.
        ignored_keys: Keys of the configuration that no loader saw because they are unknown here.
        decisions: What was found and decided while loading, one sentence each.
        anchor: The tokenizer by the checkpoint's own files and ``tokenizers`` alone, without transformers.
        tokenizer: The tokenizer as the bundle will carry it: truncation, lower-casing and special tokens included.
        facts: What a manifest records of the encoder.
        own_max_seq_length: Tokens per sentence that the checkpoint serves; ``facts`` may have fewer, where asked for.
        has_token_types: Whether the architecture embeds token types.
        pad_token_id: Id that padding is made of.
    """

    model: SentenceTransformer
    source: str
    source_name: str
    commit: str | None
    weights_sha256: str
    files: Mapping[str, str]
    stated_pooling: tuple[str, ...] | None
    equality: Equality
    parameter_hashes: Mapping[str, str]
    ignored_keys: tuple[str, ...]
    decisions: tuple[str, ...]
    anchor: Tokenizer
    tokenizer: Tokenizer
    facts: EncoderFacts
    own_max_seq_length: int
    has_token_types: bool
    pad_token_id: int

    def encode(self, sentences: list[str], prompt_name: str | None = None) -> npt.NDArray[np.float32]:
        """Return the reference vectors (len(sentences), dimension) float32, by ``SentenceTransformer.encode``.

        Args:
            sentences: The sentences.
            prompt_name: The prompt to put before them (default: the checkpoint's default).

        Raises:
            CheckpointError: The tokenizer knows a token that the embedding table has no row for.
        """
        prompt = self.facts.prompt if prompt_name is None else self.facts.prompts[prompt_name]
        return self._in_batches(sentences, prompt, partial(self.model.encode, prompt_name=prompt_name))

    def encode_query(self, sentences: list[str]) -> npt.NDArray[np.float32]:
        """Return the reference vectors of queries, by ``SentenceTransformer.encode_query``. See ``encode``."""
        return self._in_batches(sentences, "", self.model.encode_query)

    def encode_document(self, sentences: list[str]) -> npt.NDArray[np.float32]:
        """Return the reference vectors of documents, by ``SentenceTransformer.encode_document``. See ``encode``."""
        return self._in_batches(sentences, "", self.model.encode_document)

    def _in_batches(
        self, sentences: list[str], prompt: str, encode: Callable[..., npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.float32]:
        """Encode batches of few tokens.

        Activations that fit below the C library's threshold for memory maps (32 MB) are reused instead of being mapped
        and cleared anew by every operator.
        """
        rows = TextTokenizer(self.tokenizer).ids([prompt + sentence for sentence in sentences])
        vectors = np.empty((len(sentences), self.facts.dimension), dtype=np.float32)
        try:
            for batch in batches_by_length([len(row) for row in rows], batch_size=32, token_budget=TOKEN_BUDGET):
                chosen = [sentences[row] for row in batch]
                vectors[batch] = encode(chosen, batch_size=len(chosen), show_progress_bar=False)
        except IndexError as error:
            raise CheckpointError(
                f"{self.source}: its tokenizer gives ids beyond the rows of its embedding table",
                next_step="check that tokenizer and weights belong together",
            ) from error
        return vectors

    def truncate_dims(self, declared: Sequence[int]) -> tuple[int, ...]:
        """Return the dimensions below the full one that this checkpoint and a recipe declare, largest first.

        Raises:
            RecipeError: The recipe declares more dimensions than the vectors have.
        """
        full, own = self.facts.dimension, self.facts.truncate_dim
        if declared and max(declared) > full:
            raise RecipeError(
                f"truncate_dims has {max(declared)}, and the vectors of {self.source} have {full} dimensions",
                next_step="correct it in the recipe",
            )
        return tuple(sorted({*declared, *(() if own is None else (own,))} - {full}, reverse=True))

    @property
    def padding(self) -> str:
        """The side on which the tokenizer pads, ``"right"`` or ``"left"``."""
        return TextTokenizer(self.tokenizer).padding

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters of the reference by the model's own names, float32. Each was compared with the files."""
        return dict(self.model.named_parameters())

    def changed_parameters(self) -> list[str]:
        """Return the names of the parameters that are no longer those that were compared with the files.

        A folded graph shares their memory. Whatever writes into its tensors changes the graph and its judge alike.
        """
        changed = []
        for name, loaded in self.parameter_hashes.items():
            module, _, own = name.rpartition(".")
            if hash_of_parameter(getattr(self.model.get_submodule(module), own)) != loaded:
                changed.append(name)
        return changed

    def provenance(self) -> Source:
        """Return what a manifest says of the checkpoint."""
        return Source(
            checkpoint=self.source_name,
            commit=self.commit,
            weights_sha256=self.weights_sha256,
            files=dict(self.files),
            pooling=self.stated_pooling,
            max_seq_length=limit if (limit := self.facts.max_seq_length) < self.own_max_seq_length else None,
        )

    def encode_tokens(self, input_ids: IntArray, attention_mask: IntArray) -> npt.NDArray[np.float32]:
        """Return the reference vectors (batch, dimension) float32 of token ids, by the modules' own ``forward``.

        Token types, where the architecture has them, are 0, as for single sentences.

        Args:
            input_ids: (batch, sequence) int64.
            attention_mask: (batch, sequence) int64, 1 for tokens and 0 for padding.
        """
        with torch.inference_mode():
            found = self.forward(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        vectors: npt.NDArray[np.float32] = found.float().cpu().numpy()
        return vectors

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the vectors (batch, dimension) of (batch, sequence) int64 ids and mask, on the reference's device."""
        device = self.model.device
        return forward(
            self.model, input_ids.to(device), attention_mask.to(device), has_token_types=self.has_token_types
        )

    def parameter_bytes(self) -> int:
        """Return the size of the unique parameters in bytes, as float32."""
        return sum(parameter.numel() * 4 for parameter in self.model.parameters())

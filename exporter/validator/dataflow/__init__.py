"""Data flow: what the folded float32 graph can depend on, read from its operators instead of tried.

Probes and sweeps run some thousand sentences, a few batch sizes and a part of all widths. A graph that answers wrongly
in a batch of exactly 57, or where two certain words meet, passes them. Such a graph must compare something, and here
every operator is looked up in a table of what it may read (``rules``). Where the check passes:

* no row of a batch reads another row, and the batch size does nothing but shape tensors;
* token ids find a row of one table of word vectors, and may be compared with the padding id, and with nothing else;
* the attention mask masks, and is counted; only with 0 is it compared, and what is counted is a number that a pooling
  needs, for every number of tokens and every width (``counts``);
* what is computed from the padded width alone, such as positions, is the same at every width (``widths``).

What it does not see: an operator that is wrong for certain values of hidden states, or in the same way for all input.
Of a row alone, hidden states can tell much: a sum over tokens can count them, with padding or without, and a difference
to a stored word vector can tell a word. Such a vector is no parameter, and the check of weights refuses it; numbers of
tokens and widths are for sweeps, and what is wrong for all input is for gates.
"""

from exporter.validator.dataflow.check import check_dataflow

__all__ = ["check_dataflow"]

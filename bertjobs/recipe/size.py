"""How large a BERT is: arithmetic from its shape."""

from __future__ import annotations

from bertjobs.recipe.spec import ModelSpec

_FLOAT_BYTES = 4


def parameter_count(model: ModelSpec, vocab_size: int) -> int:
    """Parameters of the BERT with both heads; the masked-LM head shares the word embeddings' matrix, counted once."""
    hidden = model.hidden_size
    embeddings = (vocab_size + model.max_position_embeddings + model.type_vocab_size + 2) * hidden
    biases_and_norms = 9 * hidden + model.intermediate_size  # q, k, v, 2 outputs, 2 LayerNorms; inner projection
    layer = _layer_matrices(model) + biases_and_norms
    heads = 2 * hidden**2 + 4 * hidden + vocab_size + 2 * hidden + 2
    return embeddings + model.num_hidden_layers * layer + heads


def matrix_elements(model: ModelSpec, vocab_size: int) -> int:
    """Elements of all projections' matrices, which autocast copies."""
    hidden = model.hidden_size
    return model.num_hidden_layers * _layer_matrices(model) + 2 * hidden**2 + 2 * hidden + vocab_size * hidden


def checkpoint_bytes(model: ModelSpec, vocab_size: int) -> int:
    """Bytes of a checkpoint: float32 weights and two moments."""
    return 3 * _FLOAT_BYTES * parameter_count(model, vocab_size)


def _layer_matrices(model: ModelSpec) -> int:
    return 4 * model.hidden_size**2 + 2 * model.hidden_size * model.intermediate_size

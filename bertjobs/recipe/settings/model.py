"""What a BERT looks like, and its vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bertjobs.recipe.setting import Setting


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a BERT, by the names of Hugging Face's ``BertConfig``; ``name`` is its key in the catalogue.

    ``vocab_size`` 0 is filled in when the data is read.
    """

    name: str
    hidden_size: Annotated[int, Setting("width of the hidden states", decisive=True, minimum=1, example="768")]
    num_hidden_layers: Annotated[int, Setting("layers", unit="layers", decisive=True, minimum=1, example="12")]
    num_attention_heads: Annotated[
        int,
        Setting(
            "attention heads per layer; their number must divide hidden_size", decisive=True, minimum=1, example="12"
        ),
    ]
    intermediate_size: Annotated[
        int, Setting("width inside the feed-forward part of a layer", decisive=True, minimum=1, example="3072")
    ]
    vocab_size: Annotated[
        int, Setting("size of the vocabulary; 0: the size of the data's vocabulary", unit="tokens", example="30522")
    ] = 0
    max_position_embeddings: Annotated[
        int, Setting("longest sequence that the model can read", unit="tokens", decisive=True, minimum=8)
    ] = 512
    type_vocab_size: Annotated[int, Setting("segment types", decisive=True, minimum=2)] = 2
    hidden_act: Annotated[
        str,
        Setting(
            "activation: gelu uses erf, as in the paper, gelu_new tanh", decisive=True, choices=("gelu", "gelu_new")
        ),
    ] = "gelu"
    hidden_dropout_prob: Annotated[
        float, Setting("dropout of embeddings and layer outputs", unit="share", decisive=True, maximum=1)
    ] = 0.1
    attention_probs_dropout_prob: Annotated[
        float, Setting("dropout of attention weights", unit="share", decisive=True, maximum=1)
    ] = 0.1
    layer_norm_eps: Annotated[float, Setting("added to the variance in layer norms", decisive=True, above=True)] = 1e-12
    initializer_range: Annotated[
        float, Setting("standard deviation of random initial weights", decisive=True, above=True)
    ] = 0.02


@dataclass(frozen=True)
class VocabularySpec:
    """A vocabulary that a recipe can name."""

    sha256: Annotated[
        str,
        Setting(
            "sha256 of vocab.txt, 64 hex digits",
            example="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        ),
    ]
    size: Annotated[
        int, Setting("size of the vocabulary, lines of vocab.txt", unit="tokens", minimum=1, example="30522")
    ]

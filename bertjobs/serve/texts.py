"""Routes that take text and say what it means: /classify, /ner, /qa, /rerank, /fill-mask, /v1/embeddings.

Each takes ``model``, which may be left out where one model alone can answer, and ``truncate``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.serve.computation import Computation, Reply, reply, text_computation
from bertjobs.serve.fields import Fields, parsed
from bertjobs.serve.limits import Limits
from bertjobs.serve.refusal import Refusal
from bertjobs.serve.scorers import GUESSES
from bertjobs.serve.served import EMBEDDING, MASKS, Served
from bertjobs.tasks.probabilities import sigmoid
from bertjobs.tasks.task import Prediction

_SHARED = ("model", "truncate")


@dataclass(frozen=True)
class TextRoute:
    """One of the routes.

    Attributes:
        kinds: of models that answer it.
        fields: that it takes, besides the shared ones.
        prepare: makes work of a request for a model.
    """

    path: str
    kinds: tuple[str, ...]
    fields: tuple[str, ...]
    prepare: Callable[[Fields, Served, Limits], Computation]

    def read(self, body: bytes) -> Fields:
        """A request's fields.

        Raises:
            Refusal: it is malformed, or has an unknown field.
        """
        return Fields.of(parsed(body), (*_SHARED, *self.fields))


def _asked(
    fields: Fields,
    served: Served,
    limits: Limits,
    texts: Sequence[Mapping[str, str]],
    answer: Callable[[list[Prediction]], Reply],
) -> Computation:
    return text_computation(served.ask, texts, answer, limits, truncate=fields.flag("truncate", False))


def _said(served: Served, content: Mapping[str, Any]) -> Reply:
    return reply({"model": served.name, "version": str(served.version), **content})


def _one_or_several(
    fields: Fields, served: Served, limits: Limits, shown: Callable[[str, Prediction], Mapping[str, Any]]
) -> Computation:
    """``text`` gets its answer, ``texts`` a list of ``results``."""
    if ("text" in fields) == ("texts" in fields):
        raise Refusal("there is neither 'text' nor 'texts'" if "text" not in fields else "there is 'text' and 'texts'",
                      hint='{"text": "..."} or {"texts": ["...", "..."]}')  # fmt: skip
    several = "texts" in fields
    texts = fields.texts("texts", limits.rows) if several else [fields.text("text")]
    pairs: list[dict[str, str]] = [{"text": text} for text in texts]
    if "second" in fields:
        if several or "second" not in (*served.ask.keys, *served.ask.optional):
            raise Refusal("'second' belongs to one 'text' of a model that reads pairs", where="second")
        pairs[0]["second"] = fields.text("second")

    def answer(predictions: list[Prediction]) -> Reply:
        made = [shown(text, one) for text, one in zip(texts, predictions, strict=True)]
        return _said(served, {"results": made} if several else made[0])

    return _asked(fields, served, limits, pairs, answer)


def _classify(fields: Fields, served: Served, limits: Limits) -> Computation:
    return _one_or_several(fields, served, limits, lambda _, prediction: prediction)


def _ner(fields: Fields, served: Served, limits: Limits) -> Computation:
    def shown(text: str, prediction: Prediction) -> Mapping[str, Any]:
        entities = [
            {key: value for key, value in one.items() if key != "words"} | {"text": text[one["start"] : one["end"]]}
            for one in prediction.get("entities", ())
        ]
        return prediction | ({"entities": entities} if "entities" in prediction else {})

    return _one_or_several(fields, served, limits, shown)


def _qa(fields: Fields, served: Served, limits: Limits) -> Computation:
    asked = {"question": fields.text("question"), "context": fields.text("context")}
    count = fields.whole("n_best", 5, 1, 100)

    def answer(predictions: list[Prediction]) -> Reply:
        (one,) = predictions
        candidates = [best | {"end": best["start"] + len(best["text"])} for best in one.pop("n_best")[:count]]
        return _said(served, {**one, "end": one["start"] + len(one["answer"]), "candidates": candidates})

    return _asked(fields, served, limits, [asked], answer)


def _rerank(fields: Fields, served: Served, limits: Limits) -> Computation:
    """As Text Embeddings Inference: the texts' numbers and scores, the best first."""
    query, texts = fields.text("query"), fields.texts("texts", limits.rows)
    raw, with_text = fields.flag("raw_scores", False), fields.flag("return_text", False)
    keys = (*served.ask.keys, *served.ask.optional)
    if len(keys) < 2:
        raise Refusal(f"model {served.name!r} reads single texts, not a query with each text", where="model")
    first, second = keys[:2]

    def answer(predictions: list[Prediction]) -> Reply:
        odds = [float(one["log_odds"] if served.kind == "ranking" else one["value"]) for one in predictions]
        order = sorted(range(len(texts)), key=lambda place: (-odds[place], place))
        scores = odds if raw else sigmoid(odds).tolist()
        return reply([
            {"index": place, "score": scores[place], **({"text": texts[place]} if with_text else {})} for place in order
        ])  # fmt: skip

    return _asked(fields, served, limits, [{first: query, second: text} for text in texts], answer)


def _fill_mask(fields: Fields, served: Served, limits: Limits) -> Computation:
    if MASKS not in served.asks:
        raise Refusal(f"model {served.name!r} has no masked-LM head", where="model")
    count = fields.whole("top_k", 5, 1, GUESSES)

    def answer(predictions: list[Prediction]) -> Reply:
        return _said(served, {"masks": [of_mask[:count] for of_mask in predictions[0]["masks"]]})

    texts = [{"text": fields.text("text")}]
    return text_computation(served.asks[MASKS], texts, answer, limits, truncate=fields.flag("truncate", False))


def _embeddings(fields: Fields, served: Served, limits: Limits) -> Computation:
    """As OpenAI's: the mean over all tokens, of length 1."""
    texts = _inputs(fields, limits)
    coding = fields.choice("encoding_format", ["float", "base64"])
    pooling = fields.choice("pooling", ["mean", "cls"])
    normalised = fields.flag("normalize", True)

    def answer(predictions: list[Prediction]) -> Reply:
        data = [
            {"object": "embedding", "index": place,
             "embedding": _coded(_of_length_1(one[pooling]) if normalised else one[pooling], coding)}
            for place, one in enumerate(predictions)
        ]  # fmt: skip
        tokens = sum(one["tokens"] for one in predictions)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return reply({"object": "list", "data": data, "model": served.name, "usage": usage})

    return _asked(fields, served, limits, [{"text": text} for text in texts], answer)


def _inputs(fields: Fields, limits: Limits) -> list[str]:
    if "dimensions" in fields:
        raise Refusal("the number of dimensions cannot be chosen", where="dimensions", hint="leave it out")
    value = fields["input"]
    if isinstance(value, str):
        return [fields.text("input")]
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise Refusal(
            "token ids are not taken here: the vocabulary of the client that made them is hardly this model's",
            where="input",
            hint="send text; LangChain's OpenAIEmbeddings does with check_embedding_ctx_length=False",
        )
    return fields.texts("input", limits.rows)


def _of_length_1(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _coded(vector: NDArray[np.float32], coding: str) -> Any:
    values = vector.astype("<f4")
    return base64.b64encode(values.tobytes()).decode() if coding == "base64" else values.tolist()


TEXT_ROUTES = (
    TextRoute("/classify", ("classes", "several", "number"), ("text", "texts", "second"), _classify),
    TextRoute("/ner", ("tags",), ("text", "texts"), _ner),
    TextRoute("/qa", ("answer",), ("question", "context", "n_best"), _qa),
    TextRoute("/rerank", ("ranking", "number"), ("query", "texts", "raw_scores", "return_text"), _rerank),
    TextRoute("/fill-mask", (EMBEDDING,), ("text", "top_k"), _fill_mask),
    TextRoute(
        "/v1/embeddings",
        (EMBEDDING,),
        ("input", "encoding_format", "dimensions", "user", "pooling", "normalize"),
        _embeddings,
    ),
)

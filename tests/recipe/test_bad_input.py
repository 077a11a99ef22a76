"""Bad recipes, settings and names: one clear error each, exit code 64, the nearest named."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from bertjobs.errors import InputError, InputErrors
from bertjobs.recipe.catalogue import Catalogue, builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.schema import check_name, check_path


def refused(catalogue: Catalogue, *parts: str, **given: Any) -> InputError:
    """The error of resolving dgx1-32g with these settings; its text has all the parts."""
    given.setdefault("flags", {"recipe": "dgx1-32g"})
    given.setdefault("environ", {})
    with pytest.raises(InputError) as error:
        resolve(catalogue, **given)
    assert error.value.exit_code == 64
    for part in parts:
        assert part in str(error.value)
    return error.value


def file_refused(tmp_path: Path, text: str | bytes, *parts: str) -> None:
    file = tmp_path / "bad.yml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        load_catalogue([builtin_file(), file])
    assert error.value.exit_code == 64
    for part in (str(file), *parts):
        assert part in str(error.value)


def test_an_unknown_recipe_names_the_nearest(catalogue: Catalogue) -> None:
    refused(catalogue, "unknown recipe 'dgx1-23g'", "'dgx1-32g'", flags={"recipe": "dgx1-23g"})
    refused(catalogue, "environment RECIPE", "'laptop'", flags={}, environ={"RECIPE": "labtop"})


def test_no_recipe_lists_them(catalogue: Catalogue) -> None:
    refused(catalogue, "no recipe was given", "dgxa100-80g", "laptop-scratch", flags={})


def test_an_unknown_model_names_the_nearest(catalogue: Catalogue) -> None:
    refused(catalogue, "unknown model 'bert-lage'", "'bert-large'", environ={"MODEL": "bert-lage"})


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("phase1.lrr=1", "'lr'"),
        ("phase1.batchsize=1", "'rank_batch'"),
        ("phase3.lr=1", "the recipe's phases: 1, 2"),
        ("precison=fp16", "'precision'"),
        ("optimizer.beta_1=0.9", "'beta1'"),
        ("datadir=x", "'data'"),
        ("lr=1e-3", "'phase1.lr' or 'phase2.lr'"),
        ("beta1=0.8", "'optimizer.beta1'"),
        ("phase1.seed=3", "'seed'"),
    ],
)
def test_an_unknown_set_key_names_the_nearest(catalogue: Catalogue, text: str, nearest: str) -> None:
    refused(catalogue, "unknown key", text, nearest, sets=[text])


def test_all_unknown_keys_are_named_at_once(catalogue: Catalogue) -> None:
    with pytest.raises(InputErrors) as error:
        resolve(catalogue, flags={"recipe": "dgx1-32g"}, sets=["phase1.lrr=1", "seeed=2"], environ={})
    assert [one.where for one in error.value.errors] == ["flag --set phase1.lrr=1", "flag --set seeed=2"]


def test_all_values_that_cannot_be_read_are_named_at_once_with_the_unknown_keys(catalogue: Catalogue) -> None:
    with pytest.raises(InputErrors) as error:
        resolve(
            catalogue,
            flags={"recipe": "dgx1-32g", "precision": "fp8"},
            sets=["phase1.lr=fast", "optimizer.beta1=2", "seeed=2", "phase1.warmup=0.1"],
            environ={"GRADIENT_STEPS": "many"},
        )
    assert [one.where for one in error.value.errors] == [
        "flag --set seeed=2",
        "flag --precision",
        "flag --set optimizer.beta1",
        "flag --set phase1.lr",
        "environment GRADIENT_STEPS",
    ]


def test_all_set_arguments_without_a_value_are_named_at_once(catalogue: Catalogue) -> None:
    with pytest.raises(InputErrors, match=r"(?s)'seed'.*'=3'"):
        resolve(catalogue, flags={"recipe": "dgx1-32g"}, sets=["seed", "=3"], environ={})


def test_an_unknown_flag_names_the_nearest(catalogue: Catalogue) -> None:
    refused(catalogue, "'precison'", "'precision'", flags={"recipe": "laptop", "precison": "fp32"})


@pytest.mark.parametrize("text", ["seed", "=3", ""])
def test_set_takes_key_and_value(catalogue: Catalogue, text: str) -> None:
    refused(catalogue, "KEY=VALUE", repr(text), sets=[text])


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("BATCH_SIZE", "BATCHSIZE"),
        ("GRADIENT_STEP", "GRADIENT_STEPS"),
        ("GRADIENTSTEPS", "GRADIENT_STEPS"),
        ("LEARNING_RATE", "LR"),
        ("DATA_DIR", "DATADIR"),
        ("PRECISIONS", "PRECISION"),
    ],
)
def test_a_near_miss_in_the_environment_names_the_right_name(catalogue: Catalogue, name: str, right: str) -> None:
    refused(catalogue, f"{name} is not read", f"did you mean {right}?", environ={"PHASE": "1", name: "4"})
    # Without PHASE or RECIPE it may well mean something else, and next to the right name it is harmless.
    assert resolve(catalogue, flags={"recipe": "dgx1-32g"}, environ={name: "4"})
    value = {"LR": "0.1", "PRECISION": "fp16"}.get(right, "4")
    assert resolve(catalogue, flags={"recipe": "dgx1-32g"}, environ={"PHASE": "1", name: "4", right: value})


@pytest.mark.parametrize("phase", ["3", "0", "-1", "one", "1.5"])
def test_a_phase_that_the_recipe_does_not_have(catalogue: Catalogue, phase: str) -> None:
    refused(catalogue, "environment PHASE", environ={"PHASE": phase})


def test_phase_three_is_refused_naming_the_existing_phases(catalogue: Catalogue) -> None:
    refused(catalogue, "dgx1-32g has no phase 3", "its phases: 1, 2", environ={"PHASE": "3"})


def test_an_indivisible_global_batch(catalogue: Catalogue) -> None:
    flags = {"recipe": "dgx1-32g", "nodes": 3}
    refused(catalogue, "phase 1", "65536", "24 ranks", "2 or 4", "65520 or 65544", flags=flags)


@pytest.mark.parametrize("other", ["unpad=false", "loss_normalization=seed", "loader=lddl"])
def test_padded_batches_cannot_be_dealt_by_speed(catalogue: Catalogue, other: str) -> None:
    sets = ["rebalance=true", other]
    refused(catalogue, "padded batches cannot be dealt by the speed of the ranks", "rebalance from", sets=sets)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["decay_power=2"], ("only a linear decay has a power", "decay sqrt from default")),
        (["phase2.end_lr=1e-5"], ("the learning rate would not end at 1e-05", "phase 2, decay sqrt from default")),
        (["decay=cosine", "phase1.end_lr=1"], ("end_lr 1 is above the peak learning rate 0.006", "phase 1")),
    ],
)
def test_what_the_decay_would_not_read(catalogue: Catalogue, sets: list[str], words: tuple[str, ...]) -> None:
    refused(catalogue, *words, sets=sets)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["phase1.keep_best=true"], ("no checkpoint is the best", "phase1.keep_best from", "phase1.validate_every")),
        (
            ["phase2.early_stop=3", "phase2.validate_every=100"],
            ("only a phase that keeps its best checkpoint can end early", "phase2.early_stop from", "phase2.keep_best"),
        ),
    ],
)
def test_a_best_checkpoint_that_nothing_would_find(
    catalogue: Catalogue, sets: list[str], words: tuple[str, ...]
) -> None:
    refused(catalogue, *words, sets=sets)


def test_an_indivisible_phase_that_is_not_asked_for_is_ignored(catalogue: Catalogue) -> None:
    environ = {"PHASE": "1", "BATCHSIZE": "10"}
    (phase,) = resolve(catalogue, flags={"recipe": "dgx1-32g"}, environ=environ, nodes=3).spec.phases
    assert phase.global_batch == 240


def test_batchsize_not_divisible_by_gradient_steps(catalogue: Catalogue) -> None:
    environ = {"PHASE": "1", "BATCHSIZE": "2048", "GRADIENT_STEPS": "100"}
    refused(catalogue, "BATCHSIZE 2048", "GRADIENT_STEPS 100", "64 or 128", environ=environ)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LR": "fast"}, "lr must be a number above 0, not 'fast'"),
        ({"LR": "nan"}, "lr must be a number above 0"),
        ({"LR": "-1"}, "lr must be a number above 0"),
        ({"BATCHSIZE": "12.5"}, "a whole number of at least 1, not '12.5'"),
        ({"BATCHSIZE": "0"}, "a whole number of at least 1"),
        ({"BATCHSIZE": "9" * 30}, "a whole number of at least 1"),
        ({"PRECISION": "pf16"}, "did you mean 'fp16'?"),
        ({"MASKING": "sttic"}, "did you mean 'static'?"),
        ({"SEED": "-1"}, "seed must be a whole number of at least 0"),
        ({"GPUS": "many"}, "gpus must be a whole number"),
        ({"MOUNTS": "a"}, "mounts must be SRC:DST"),
        ({"MOUNTS": "a:b,"}, "mounts must be SRC:DST"),
        ({"MOUNTS": "a:b:c:d"}, "mounts must be SRC:DST"),
        ({"BIN_SIZE": "96"}, "bin_size 96 does not divide sequence_length 128"),
    ],
)
def test_values_of_the_wrong_kind(catalogue: Catalogue, environ: dict[str, str], expected: str) -> None:
    refused(catalogue, expected, environ={"PHASE": "1", **environ})


def test_impossible_shapes(catalogue: Catalogue) -> None:
    refused(catalogue, "longer than the 512 positions", sets=["phase2.sequence_length=1024"])
    refused(catalogue, "max_predictions 128 is not below", sets=["phase1.max_predictions=128"])


UNSAFE = ["a\nb", "a\tb", "a\x00b", "a\x7fb", "a\x1b[2Jb", "a\x85b", "a\u202eb", "a\u2028b", "a\u00a0b", "a\\b"]
"""Paths that no script or terminal could hold."""
ODD = [
    *(
        "a b",
        " a",
        "a'b",
        'a"b',
        "$(id)",
        "`id`",
        "a;b",
        "a|b",
        "a&b",
        "a>b",
        "a<b",
        "a*",
        "a?",
        "a%j",
        "a%%b",
        "$HOME",
    ),
    *("a,b", "(a)", "{a}", "[a]", "a!b", "~/a", "a#b", "-a", "--help"),
]
"""Paths that are quoted wherever they go."""
NO_NAMES = [*UNSAFE, *(text for text in ODD if text != "-a")]


@pytest.mark.parametrize("text", UNSAFE)
@pytest.mark.parametrize("name", ["DATADIR", "RESULTS", "INIT_CHECKPOINT", "IMAGE"])
def test_paths_that_no_script_could_hold(catalogue: Catalogue, name: str, text: str) -> None:
    error = refused(catalogue, name, environ={name: text})
    assert "\n" not in error.what


@pytest.mark.parametrize("text", [*NO_NAMES, "-a"])
def test_hostile_names(catalogue: Catalogue, text: str) -> None:
    error = refused(catalogue, "RUN", environ={"RUN": text})
    assert "\n" not in error.what


@pytest.mark.parametrize(
    "text", [*UNSAFE, *(text for text in ODD if text not in ("~/a", "a#b", "a,b", "-a", "--help"))]
)
def test_hostile_mounts(catalogue: Catalogue, text: str) -> None:
    """pyxis separates the parts of mounts by commas, colons and blanks."""
    refused(catalogue, "MOUNTS", environ={"MOUNTS": f"/x:/{text}"})
    refused(catalogue, "MOUNTS", environ={"MOUNTS": f"{text}:/x"})


@pytest.mark.parametrize(
    "text",
    [*("/data/x.y-z_1", "~/data", "docker://a@b:1", "nvcr.io#a/b:1", "a=b", "Bücher/本", "हिन्दी", "c++"), *ODD],
)
def test_plain_and_odd_paths_pass(text: str) -> None:
    assert check_path(text, "data") == text


@pytest.mark.parametrize("text", ["", ".", "..", ".a", "_a", "-a", "a/b", "a:b", "ä", "a" * 129, "a\n"])
def test_names_that_are_not_folders_of_ours(text: str) -> None:
    with pytest.raises(InputError, match="is not a valid name"):
        check_name(text, "run")


@pytest.mark.parametrize("text", ["a", "1", "a" * 128, "BERT_large-v1.0"])
def test_plain_names_pass(text: str) -> None:
    assert check_name(text, "run") == text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("recipes:\n  a: [1\n", ("line 2, column 6", "not valid YAML", "'[' is not closed")),
        ("recipes:\n  a: *b\n", ("line 2, column 6", "*b refers to nothing")),
        ("a: b: c\n", ("line 1, column 5",)),
        ("recipes:\n\ta: 1\n", ("line 2", "indented with a tab")),
        ("recipes: {}\nmodels: {}\nrecipes: {}\n", ("'recipes' is given twice", "line 3, column 1")),
        ("phases:\n  1:\n    lr: 1\n    lr: 2\n", ("'lr' is given twice", "line 4, column 5")),
        ("phases: {1: {}, '1': {}}", ("given twice",)),
        ("a: !!python/object/apply:os.system [id]", ("not valid YAML",)),
        ("a: 2024-99-99", ("not valid YAML",)),
        ("{}\n---\n{}\n", ("line 2",)),
        (b"\xff\xfe\x00", ("not UTF-8", "0xff", "line 1")),
        (b"a: 1\nb: \xe9\n", ("not UTF-8", "0xe9", "line 2")),
        ("a: \x01", ("not valid YAML",)),
        ("[" * 5000, ("not valid YAML",)),
        ("- 1\n", ("expected a mapping of keys to values here, not",)),
        ("recipes:\n", ("a mapping", "recipes")),
        ("recpies: {}", ("unknown key 'recpies'", "'recipes'")),
        ("recipes: {a: {sytem: x}}", ("unknown key 'sytem'", "recipes.a.sytem", "'system'")),
        ("recipes: {a: {lr: 1}}", ("recipes.a.lr", "'lr' is a setting of a phase")),
        ("recipes: {a: {beta1: 1}}", ("recipes.a.beta1", "'beta1' is a setting of the optimizer")),
        ("recipes: {a: {phases: {1: {decay: x}}}}", ("'decay' is a setting of the recipe",)),
        ("recipes: {a: {phases: {1: {batchsize: 3}}}}", ("recipes.a.phases.1.batchsize",)),
        ("recipes: {a: {phases: {1: {warmpu: 3}}}}", ("recipes.a.phases.1.warmpu", "'warmup'")),
        ("recipes: {a: {phases: {one: {}}}}", ("a phase is a number", "'one'")),
        ("recipes: {a: {optimizer: {beta: 1}}}", ("recipes.a.optimizer.beta",)),
        ("recipes: {a: {seed: x}}", ("recipes.a.seed", "a whole number", "'x'")),
        ("recipes: {a: {seed: true}}", ("recipes.a.seed", "not True")),
        ("recipes: {a: {seed: }}", ("recipes.a.seed", "not empty")),
        ("recipes: {a: {mounts: [1]}}", ("recipes.a.mounts",)),
        ('recipes: {a: {data: "a\\tb"}}', ("recipes.a.data", "'\\t'")),
        ("recipes: {a b: {}}", ("'a b' is not a valid name",)),
        ("recipes: {1: {}}", ("a name must be text, not 1",)),
        ("models: {m: {hidden_siz: 1}}", ("models.m.hidden_siz", "'hidden_size'")),
        ("models: {m: {hidden_act: relu}}", ("models.m.hidden_act", "gelu, gelu_new")),
        ("systems: {s: {gpus: 1}}", ("systems.s.gpus",)),
        ("vocabularies: {v: {sha256: abc, size: 1}}", ("64 hex digits",)),
        ("phases: {1: {warmup: 2}}", ("phases.1.warmup", "at most 1")),
        ("phases: {1: {micro_batch: {fp8: 2}}}", ("phases.1.micro_batch", "precision")),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path: Path, text: str | bytes, parts: tuple[str, ...]) -> None:
    file_refused(tmp_path, text, *parts)


WRONG = """\
systems:
  ours: {gpus_per_nod: 4, gpu: A100-SXM4-80GB}
recipes:
  mine:
    system: our
    model: bert-large
    num_workers: -1
    phases:
      1:
        lr: fast
        micro_batch: 8
"""


def test_all_that_is_wrong_with_a_file_is_reported_at_once_with_lines(tmp_path: Path) -> None:
    file = tmp_path / "own.yml"
    file.write_text(WRONG)
    with pytest.raises(InputErrors) as error:
        load_catalogue([builtin_file(), file])
    assert error.value.exit_code == 64
    assert [(e.where, e.what) for e in error.value.errors] == [
        (f"{file}, line 2: systems.ours.gpus_per_nod", "unknown key 'gpus_per_nod'"),
        (f"{file}, line 5: recipes.mine.system", "unknown system 'our'"),
        (f"{file}, line 7: recipes.mine.num_workers", "num_workers must be a whole number of at least 0, not -1"),
        (f"{file}, line 10: recipes.mine.phases.1.lr", "lr must be a number above 0, not 'fast'"),
    ]
    assert error.value.errors[0].hint == "did you mean 'gpus_per_node'?"
    assert str(error.value).count("error: ") == 4
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_what_is_wrong_with_several_files_is_reported_at_once(tmp_path: Path) -> None:
    for name in ("a.yml", "b.yml"):
        (tmp_path / name).write_text("recipes:\n  mine: {sytem: laptop}\nmodels: {}\nmodels: {}\n")
    with pytest.raises(InputErrors) as error:
        load_catalogue([builtin_file(), tmp_path / "a.yml", tmp_path / "b.yml"])
    assert [str(e.where).removeprefix(f"{tmp_path}/") for e in error.value.errors] == [
        "a.yml, line 2: recipes.mine.sytem",
        "a.yml, line 4, column 1",
        "b.yml, line 2: recipes.mine.sytem",
        "b.yml, line 4, column 1",
    ]


def test_a_name_that_no_file_has_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "own.yml"
    file.write_text("recipes:\n  mine:\n    system: labtop\n")
    both = load_catalogue([builtin_file(), file])
    refused(both, "unknown system 'labtop'", f"{file}, line 3: recipes.mine.system", flags={"recipe": "mine"})


def test_a_recipe_file_that_does_not_exist_or_is_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yml", tmp_path):
        with pytest.raises(InputError, match="cannot read the recipe file"):
            load_catalogue([path])


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yml").write_text("# nothing yet\n")
    assert load_catalogue([tmp_path / "empty.yml"]).keys("recipes") == []


@pytest.mark.parametrize("number", ["6e-3", "6.0e-3", "0.006", "'6e-3'", "6E-3"])
def test_numbers_that_yaml_reads_as_text(tmp_path: Path, number: str) -> None:
    (tmp_path / "own.yml").write_text(f"phases: {{1: {{lr: {number}}}}}")
    entry = load_catalogue([tmp_path / "own.yml"]).find("phases", 1, "lr")
    assert entry is not None
    assert entry.value == 6e-3


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ("{system: laptop}", ("does not set model",)),
        ("{model: bert-tiny}", ("does not set system",)),
        ("{system: labtop, model: bert-tiny}", ("unknown system 'labtop'", "'laptop'")),
        ("{system: laptop, model: bert-tiny}", ("does not set phase1.micro_batch",)),
        ("{system: laptop, model: bert-tiny, vocabulary: bert}", ("unknown vocabulary 'bert'",)),
        ("{system: laptop, model: odd}", ("hidden_size 10 is not divisible by num_attention_heads 3",)),
        ("{system: laptop, model: half}", ("models.half has no num_hidden_layers",)),
    ],
)
def test_an_incomplete_recipe(tmp_path: Path, recipe: str, parts: tuple[str, ...]) -> None:
    odd = "{hidden_size: 10, num_hidden_layers: 1, num_attention_heads: 3, intermediate_size: 4}"
    text = f"recipes: {{mine: {recipe}}}\nmodels: {{odd: {odd}, half: {{hidden_size: 4}}}}\n"
    (tmp_path / "own.yml").write_text(text)
    both = load_catalogue([builtin_file(), tmp_path / "own.yml"])
    refused(both, *parts, flags={"recipe": "mine"})

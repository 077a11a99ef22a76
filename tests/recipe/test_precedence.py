"""Flag, --set, environment, user's recipe, catalogue, default: in this order, and each value names its source."""

from pathlib import Path
from typing import Any

import pytest

from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import Catalogue, builtin_file, catalogue_files, load_catalogue
from bertjobs.recipe.resolve import Resolved, resolve


def resolved(
    catalogue: Catalogue,
    recipe: str = "dgx1-32g",
    sets: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
    nodes: int | None = None,
    tasks_per_node: int | None = None,
    **flags: Any,
) -> Resolved:
    flags.setdefault("recipe", recipe)
    return resolve(
        catalogue,
        flags=flags,
        sets=sets,
        environ=environ or {},
        nodes=nodes,
        tasks_per_node=tasks_per_node,
    )


def value_and_source(run: Resolved, path: str) -> tuple[Any, str]:
    source = run.provenance[path]
    return source.value, source.origin


def test_a_run_setting_takes_the_strongest_layer(tmp_path: Path) -> None:
    own = tmp_path / "own.yml"
    own.write_text("recipes: {dgx1-32g: {seed: 2}}")
    builtin, both = load_catalogue([builtin_file()]), load_catalogue([builtin_file(), own])
    environ, sets = {"SEED": "3"}, ("seed=4",)
    assert value_and_source(resolved(builtin), "seed") == (42, "default")
    assert value_and_source(resolved(both), "seed") == (2, f"{own}: recipes.dgx1-32g")
    assert value_and_source(resolved(both, environ=environ), "seed") == (3, "environment SEED")
    assert value_and_source(resolved(both, environ=environ, sets=sets), "seed") == (4, "flag --set seed")
    assert value_and_source(resolved(both, environ=environ, sets=sets, seed="5"), "seed") == (5, "flag --seed")


def test_a_site_is_stronger_than_the_default_and_weaker_than_all_else(tmp_path: Path) -> None:
    own = tmp_path / "own.yml"
    own.write_text("recipes: {dgx1-32g: {results: /mine}}")
    site = {"results": "/lustre/runs", "mounts": "/a:/a,/b:/b:ro"}
    builtin, both = load_catalogue([builtin_file()]), load_catalogue([builtin_file(), own])

    def results(
        catalogue: Catalogue, recipe: str = "dgx1-32g", environ: dict[str, str] | None = None
    ) -> tuple[Any, str]:
        flags = {"recipe": recipe}
        return value_and_source(
            resolve(catalogue, flags=flags, environ=environ or {}, site=site, site_origin="site a"), "results"
        )

    assert results(builtin) == ("/lustre/runs", "site a")
    assert results(both) == ("/mine", f"{own}: recipes.dgx1-32g")
    assert results(builtin, environ={"RESULTS": "/env"}) == ("/env", "environment RESULTS")
    assert results(builtin, "laptop") == ("results", "default"), "this machine is not part of a cluster"
    spec = resolve(builtin, flags={"recipe": "dgx1-32g"}, environ={}, site=site).spec
    assert spec.mounts == ("/a:/a", "/b:/b:ro")


def test_a_phase_setting_takes_the_strongest_layer(tmp_path: Path) -> None:
    own = tmp_path / "own.yml"
    own.write_text("recipes: {dgx1-32g: {phases: {1: {lr: 2e-3}}}}")
    shared = tmp_path / "shared.yml"
    shared.write_text("phases: {1: {lr: 1e-3}}")
    builtin = load_catalogue([builtin_file()])
    assert value_and_source(resolved(builtin), "phase1.lr") == (6e-3, "configurations.yml: phases.1")
    general = load_catalogue([builtin_file(), shared])
    assert value_and_source(resolved(general), "phase1.lr") == (1e-3, f"{shared}: phases.1")
    both = load_catalogue([builtin_file(), own, shared])
    assert value_and_source(resolved(both), "phase1.lr") == (2e-3, f"{own}: recipes.dgx1-32g.phases.1")
    one = {"PHASE": "1", "LR": "3e-3"}
    assert value_and_source(resolved(both, environ=one), "phase1.lr") == (3e-3, "environment LR")
    sets = ("phase1.lr=4e-3",)
    assert value_and_source(resolved(both, environ=one, sets=sets), "phase1.lr") == (4e-3, "flag --set phase1.lr")
    assert value_and_source(resolved(both, environ=one, sets=sets, lr=5e-3), "phase1.lr") == (5e-3, "flag --lr")


def test_the_last_of_several_files_wins_key_by_key(tmp_path: Path) -> None:
    first, last = tmp_path / "first.yml", tmp_path / "last.yml"
    first.write_text("recipes: {dgx1-32g: {seed: 1, num_workers: 3, phases: {1: {steps: 10}}}}")
    last.write_text("recipes: {dgx1-32g: {seed: 2, phases: {1: {lr: 0.1}}}}")
    spec = resolved(load_catalogue([builtin_file(), first, last])).spec
    assert (spec.seed, spec.num_workers) == (2, 3)
    assert (spec.phase(1).steps, spec.phase(1).lr, spec.phase(1).micro_batch) == (10, 0.1, 64)


def test_files_are_found_in_order(tmp_path: Path) -> None:
    config, here = tmp_path / "config", tmp_path / "here"
    (config / "bertjobs").mkdir(parents=True)
    here.mkdir()
    (config / "bertjobs" / "recipes.yml").touch()
    (here / "bertjobs.yml").touch()
    own = [config / "bertjobs" / "recipes.yml", here / "bertjobs.yml"]
    environ = {"XDG_CONFIG_HOME": str(config)}
    assert catalogue_files(environ, here, ["x.yml"]) == [builtin_file(), *own, Path("x.yml")]
    (tmp_path / ".config").symlink_to(config)
    at_home = catalogue_files({"HOME": str(tmp_path)}, tmp_path)
    assert at_home == [builtin_file(), tmp_path / ".config" / "bertjobs" / "recipes.yml"]
    assert catalogue_files({}, tmp_path) == [builtin_file()]


def test_empty_environment_values_are_unset(catalogue: Catalogue) -> None:
    environ = dict.fromkeys(["RUN", "PHASE", "BATCHSIZE", "LR", "GPUS", "IMAGE", "MOUNTS", "MODEL"], "")
    assert resolved(catalogue, environ=environ).spec == resolved(catalogue).spec


def test_every_environment_name_is_read(catalogue: Catalogue) -> None:
    environ = {
        "RECIPE": "dgx1-32g",
        "RUN": "mine",
        "PHASE": "2",
        "BATCHSIZE": "96",
        "LR": "1e-3",
        "GRADIENT_STEPS": "12",
        "PRECISION": "fp32",
        "SEED": "7",
        "STEPS_THIS_RUN": "9",
        "MODEL": "bert-base",
        "BIN_SIZE": "128",
        "MASKING": "static",
        "NUM_WORKERS": "0",
        "INIT_CHECKPOINT": "/models/bert",
        "DATADIR": "/data",
        "RESULTS": "/results",
        "IMAGE": "nvcr.io#nvidia/pytorch:25.01-py3",
        "MOUNTS": "/a:/b,/c:/d:ro",
        "GPUS": "4",
    }
    spec = resolve(catalogue, flags={}, environ=environ).spec
    (phase,) = spec.phases
    assert (spec.recipe, spec.run, phase.phase) == ("dgx1-32g", "mine", 2)
    assert (phase.rank_batch, phase.lr, phase.gradient_steps, phase.micro_batch) == (96, 1e-3, 12, 8)
    assert (spec.precision, spec.seed, spec.steps_this_run, spec.model.name) == ("fp32", 7, 9, "bert-base")
    assert (spec.bin_size, spec.masking, spec.num_workers) == (128, "static", 0)
    assert (spec.init_checkpoint, spec.data, spec.results) == ("/models/bert", "/data", "/results")
    assert (spec.image, spec.mounts) == ("nvcr.io#nvidia/pytorch:25.01-py3", ("/a:/b", "/c:/d:ro"))
    assert (spec.gpus, spec.tasks_per_node, phase.global_batch) == (4, 4, 384)


def test_the_arithmetic_is_put_into_words(catalogue: Catalogue) -> None:
    run = resolved(catalogue, nodes=4)
    assert value_and_source(run, "phase1.rank_batch") == (2048, "65536 / (4 nodes x 8 tasks)")
    assert value_and_source(run, "phase1.gradient_steps") == (32, "65536 / (4 nodes x 8 tasks) / micro-batch 64")
    assert value_and_source(run, "phase1.micro_batch") == (64, "largest divisor of 2048 up to the limit 64")
    assert value_and_source(run, "nodes") == (4, "the job's allocation")
    assert value_and_source(resolved(catalogue, **{"nodes": None}), "nodes") == (1, "default")
    by_flag = resolve(catalogue, flags={"recipe": "dgx1-32g", "nodes": 4}, environ={})
    assert value_and_source(by_flag, "nodes") == (4, "flag --nodes")
    given = resolved(catalogue, environ={"PHASE": "1", "BATCHSIZE": "64", "GRADIENT_STEPS": "2"}, nodes=2)
    assert value_and_source(given, "phase1.global_batch") == (1024, "64 x (2 nodes x 8 tasks)")
    assert value_and_source(given, "phase1.micro_batch") == (32, "64 / 2 gradient steps")


def test_every_field_of_the_run_has_a_source(catalogue: Catalogue) -> None:
    run = resolved(catalogue)
    for phase in run.spec.phases:
        for field in vars(phase).keys() - {"phase"}:
            assert run.provenance[f"phase{phase.phase}.{field}"].value == getattr(phase, field)
    for field in vars(run.spec).keys() - {"phases", "optimizer", "system", "model", "vocabulary", "group_systems"}:
        assert run.provenance[field].value == getattr(run.spec, field)


def test_the_global_batch_stays_when_the_nodes_change(catalogue: Catalogue) -> None:
    batches = {resolved(catalogue, nodes=nodes).spec.phase(1).global_batch for nodes in (1, 2, 4, 8, 16)}
    assert batches == {65536}


def test_gpus_and_tasks_agree(catalogue: Catalogue) -> None:
    def counts(**given: Any) -> tuple[int, int]:
        spec = resolved(catalogue, **given).spec
        return spec.gpus, spec.tasks_per_node

    assert counts() == (8, 8)
    assert counts(gpus=4) == (4, 4)
    assert counts(tasks_per_node=4) == (4, 4)
    assert counts(gpus=0) == (0, 1)
    assert counts(gpus=0, tasks_per_node=8) == (0, 8)
    assert counts(recipe="laptop") == (0, 2)
    assert counts(recipe="laptop", gpus=1) == (1, 1)
    assert counts(recipe="laptop", tasks_per_node=4) == (0, 4)
    with pytest.raises(InputError, match="4 tasks per node do not match 2 GPUs"):
        counts(gpus=2, tasks_per_node=4)
    with pytest.raises(InputError, match="16 tasks per node do not match 8 GPUs"):
        counts(tasks_per_node=16)


def test_phase_settings_without_a_phase_are_refused(catalogue: Catalogue) -> None:
    for name, value in (("BATCHSIZE", "64"), ("LR", "1e-3"), ("GRADIENT_STEPS", "2")):
        with pytest.raises(InputError, match=f"{name} applies to one phase.*\n.*\n.*set PHASE") as error:
            resolved(catalogue, environ={name: value})
        assert error.value.exit_code == 64
    with pytest.raises(InputError, match="flag --lr applies to one phase"):
        resolved(catalogue, lr="1e-3")
    with pytest.raises(InputError, match=r"--set phase1\.rank_batch=64"):
        resolved(catalogue, rank_batch="64")


def test_phase_settings_reach_a_recipe_of_one_phase(tmp_path: Path) -> None:
    own = tmp_path / "own.yml"
    own.write_text("recipes: {one: {system: laptop, model: bert-tiny, phases: {1: {micro_batch: 8}}}}")
    spec = resolved(load_catalogue([builtin_file(), own]), "one", environ={"BATCHSIZE": "16"}).spec
    assert (spec.phase(1).rank_batch, spec.phase(1).gradient_steps) == (16, 2)


def test_a_set_global_batch_beats_the_environments_batchsize(catalogue: Catalogue) -> None:
    environ = {"PHASE": "1", "BATCHSIZE": "64"}
    sets = ("phase1.global_batch=4096",)
    assert resolved(catalogue, environ=environ, sets=sets).spec.phase(1).rank_batch == 512
    assert resolved(catalogue, environ=environ, sets=sets, rank_batch=32).spec.phase(1).global_batch == 256
    with pytest.raises(InputError, match="contradicts 64 per rank"):
        resolved(catalogue, sets=(*sets, "phase1.rank_batch=64"))


def test_the_micro_batch_follows_the_precision(catalogue: Catalogue) -> None:
    def limit(precision: str, **given: Any) -> int:
        return resolved(catalogue, "dgxa100-80g", precision=precision, **given).spec.phase(1).micro_batch_limit

    assert [limit(p) for p in ("fp16", "bf16", "tf32", "fp32")] == [256, 256, 128, 128]
    assert limit("fp16", sets=("phase1.micro_batch=8",)) == 8


def test_a_precision_without_a_micro_batch_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.yml"
    own.write_text("recipes: {half: {system: laptop, model: bert-tiny, phases: {1: {micro_batch: {fp16: 8}}}}}")
    both = load_catalogue([builtin_file(), own])
    assert resolved(both, "half", precision="bf16").spec.phase(1).micro_batch == 8
    with pytest.raises(InputError, match="no micro_batch for precision fp32"):
        resolved(both, "half", precision="fp32")


def test_optimizer_settings(catalogue: Catalogue) -> None:
    run = resolved(catalogue, sets=("optimizer.name=adamw", "optimizer.beta2=0.98"))
    assert (run.spec.optimizer.name, run.spec.optimizer.beta2) == ("adamw", 0.98)
    assert value_and_source(run, "optimizer.beta2") == (0.98, "flag --set optimizer.beta2")


@pytest.mark.parametrize(
    "given",
    [
        {"gpus": "a100:4"},
        {"sets": ("gpus=a100:4",)},
        {"environ": {"GPUS": "a100:4"}},
        {"gpus": "4", "gpu_type": "a100"},
    ],
)
def test_gpus_of_a_type_are_given_as_slurm_writes_them(given: dict[str, Any]) -> None:
    spec = resolved(load_catalogue([builtin_file()]), **given).spec
    assert (spec.gpus, spec.gpu_type, spec.tasks_per_node, spec.gpus_per_node) == (4, "a100", 4, "a100:4")


def test_without_a_type_any_gpu_will_do() -> None:
    spec = resolved(load_catalogue([builtin_file()])).spec
    assert (spec.gpu_type, spec.gpus_per_node) == ("", "8")


def test_a_recipe_and_a_site_name_the_type(tmp_path: Path) -> None:
    own = tmp_path / "own.yml"
    own.write_text("recipes: {dgx1-32g: {gpu_type: v100}}")
    builtin, site = load_catalogue([builtin_file()]), {"gpu_type": "h100"}
    flags = {"recipe": "dgx1-32g"}
    assert resolve(builtin, flags=flags, environ={}, site=site).spec.gpu_type == "h100"
    both = load_catalogue([builtin_file(), own])
    assert resolve(both, flags=flags, environ={}, site=site).spec.gpu_type == "v100"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"gpus": "a100:4", "gpu_type": "v100"}, "GPUs of type a100 contradict gpu_type v100"),
        ({"gpus": "a100:"}, "gpus must be a whole number"),
        ({"gpus": "a b:4"}, "gpu_type: 'a b' is not a valid name"),
    ],
)
def test_gpus_that_make_no_sense(given: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        resolved(load_catalogue([builtin_file()]), **given)


def test_the_recipe_s_own_batch_is_kept_beside_that_of_batchsize() -> None:
    run = resolved(load_catalogue([builtin_file()]), environ={"BATCHSIZE": "2048", "PHASE": "1"}, nodes=4)
    assert run.spec.phase(1).global_batch == 2048 * 32
    run = resolved(load_catalogue([builtin_file()]), environ={"BATCHSIZE": "2048", "PHASE": "1"}, nodes=2)
    assert run.spec.phase(1).global_batch == 2048 * 16
    assert run.recipe_batches == {1: 65536}


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ((), (20, 80)),
        (("masked_share=0.3",), (39, 154)),
        (("masked_share=0.3", "phase2.max_predictions=90"), (39, 90)),
        (("phase1.sequence_length=256",), (40, 80)),
    ],
)
def test_the_most_masked_tokens_follow_from_the_share(sets: tuple[str, ...], expected: tuple[int, int]) -> None:
    resolved = resolve(load_catalogue([builtin_file()]), flags={"recipe": "laptop"}, environ={}, sets=sets)
    assert tuple(phase.max_predictions for phase in resolved.spec.phases) == expected
    origin = resolved.provenance["phase2.max_predictions"].origin
    assert origin.startswith("flag --set" if expected[1] == 90 else "a share of 0.")

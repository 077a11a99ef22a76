"""One table of all settings. Flags, ``--set`` keys, environment names and YAML keys all derive from it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bertjobs.errors import InputError, nearest
from bertjobs.recipe.spec import ATTENTIONS, OPTIMIZERS, PRECISIONS, RESTARTS, OptimizerSpec

REQUIRED = object()
"""The default of a setting that a recipe has to give."""

_LARGEST = 2**31 - 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PATH_MARKS = frozenset("._-/+@=~:#")


@dataclass(frozen=True)
class Setting:
    """One setting and all its spellings.

    Attributes:
        key: its YAML key; ``--set`` takes ``KEY``, ``optimizer.KEY`` or ``phaseN.KEY`` by section.
        section: "run", "optimizer", "phase", "system", "model" or "vocabulary".
        kind: "int", "float", "switch", "text", "name", "path", "mounts", "phase" or "micro_batch".
        default: the value where nothing sets it, or ``REQUIRED``.
        help: what it is, with its unit.
        env: its environment name, or "".
        flag: its command-line flag, or "".
        in_recipe: whether a recipe's YAML may hold it.
        minimum, maximum: bounds of a number; ``above`` says that the minimum itself is excluded.
        choices: the only values allowed, or () for any.
    """

    key: str
    section: str
    kind: str
    default: Any
    help: str
    env: str = ""
    flag: str = ""
    in_recipe: bool = True
    minimum: float = 0
    maximum: float = _LARGEST
    above: bool = False
    choices: tuple[str, ...] = ()

    def expected(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind in ("int", "float"):
            noun = "a whole number" if self.kind == "int" else "a number"
            low = f"above {self.minimum:g}" if self.above else f"of at least {self.minimum:g}"
            return f"{noun} {low}" + (f" and at most {self.maximum:g}" if self.maximum < _LARGEST else "")
        return {
            "micro_batch": "a whole number of at least 1, or a mapping from precision to such numbers",
            "phase": "the number of a phase, or 'all'",
            "switch": "true or false",
            "mounts": "SRC:DST or SRC:DST:FLAGS, several separated by commas",
        }.get(self.kind, "text")

    def parse(self, value: Any, where: str) -> Any:
        """The value as its type, from text or from what YAML made of it; InputError where it is not one."""
        parsed = _PARSERS[self.kind](self, value)
        if parsed is None or (self.choices and parsed not in self.choices):
            hint = nearest(str(value), self.choices) if self.choices else None
            said = "empty" if value is None else repr(value)
            raise InputError(f"{self.key} must be {self.expected()}, not {said}", where=where, hint=hint)
        if self.kind == "name":
            check_name(parsed, f"{self.key} ({where})")
        elif self.kind == "path":
            check_path(parsed, f"{self.key} ({where})")
        elif self.kind == "mounts":
            for mount in parsed:
                check_path(mount, f"{self.key} ({where})")
        return parsed


def _number(setting: Setting, value: float) -> float | None:
    low = value > setting.minimum if setting.above else value >= setting.minimum
    return value if low and value <= setting.maximum else None


def _parse_int(setting: Setting, value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or _number(setting, value) is None:
        return None
    return value


def _parse_float(setting: Setting, value: Any) -> float | None:
    if isinstance(value, str):  # YAML 1.1 reads 6e-3, which has no dot, as text
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _number(setting, float(value)) if math.isfinite(value) else None


_SWITCHES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _parse_switch(setting: Setting, value: Any) -> bool | None:  # noqa: ARG001
    return _SWITCHES.get(str(value).strip().lower())


def _parse_text(setting: Setting, value: Any) -> str | None:  # noqa: ARG001
    return value if isinstance(value, str) else None


def _parse_phase(setting: Setting, value: Any) -> int | str | None:
    if isinstance(value, str) and value.strip().lower() == "all":
        return "all"
    number = _parse_int(setting, value)
    return number if number else None


def _parse_micro_batch(setting: Setting, value: Any) -> int | dict[str, int] | None:
    if isinstance(value, Mapping):
        numbers = {str(key): _parse_int(setting, item) for key, item in value.items()}
        known = all(key in PRECISIONS for key in numbers)
        return {k: n for k, n in numbers.items() if n} if numbers and known and all(numbers.values()) else None
    return _parse_int(setting, value)


def _parse_mounts(setting: Setting, value: Any) -> tuple[str, ...] | None:  # noqa: ARG001
    mounts = value.split(",") if isinstance(value, str) and value else value or ()
    if not isinstance(mounts, list | tuple):
        return None
    for mount in mounts:
        parts = mount.split(":") if isinstance(mount, str) else []
        if len(parts) not in (2, 3) or not all(parts):
            return None
    return tuple(mounts)


_PARSERS: dict[str, Any] = {
    "int": _parse_int,
    "float": _parse_float,
    "switch": _parse_switch,
    "text": _parse_text,
    "name": _parse_text,
    "path": _parse_text,
    "phase": _parse_phase,
    "micro_batch": _parse_micro_batch,
    "mounts": _parse_mounts,
}


def check_path(value: str, setting: str) -> str:
    """The path, if it is safe in every script it reaches: letters of any script, digits and ``._-/+@=~:#``.

    ``#`` is in enroot's image URIs, ``:`` in mounts. Empty means unset and passes. Raises InputError.
    """
    for character in value:
        category = unicodedata.category(character)
        if character not in _PATH_MARKS and category[0] not in "LM" and category != "Nd":
            raise InputError(
                f"{setting}: {value!r} holds {character!r}, which a path may not",
                hint="use letters, digits and . _ - / + @ = ~ : #",
            )
    if value.startswith("-"):
        raise InputError(f"{setting}: {value!r} starts with '-', like a flag", hint=f"write ./{value}")
    return value


def check_name(value: str, setting: str) -> str:
    """The name, if it can be a folder's and a job's: ASCII letters, digits, ``.``, ``_``, ``-``, at most 128.

    It starts with a letter or digit. Raises InputError.
    """
    if not _NAME.fullmatch(value):
        raise InputError(
            f"{setting}: {value!r} cannot be a name",
            hint="use letters, digits, '.', '_' and '-', starting with a letter or digit, at most 128",
        )
    return value


def _run(key: str, kind: str, default: Any, help: str, **more: Any) -> Setting:
    more.setdefault("flag", "--" + key.replace("_", "-"))
    more.setdefault("env", key.upper())
    return Setting(key, "run", kind, default, help, **more)


def _phase(key: str, kind: str, help: str, default: Any = REQUIRED, **more: Any) -> Setting:
    return Setting(key, "phase", kind, default, help, **more)


_LAMB = OptimizerSpec()

SETTINGS: tuple[Setting, ...] = (
    _run("recipe", "name", REQUIRED, "recipe to run; `bertjobs recipes` lists them", in_recipe=False),
    _run("run", "name", "", "name of the run and of its folder below results (default: the recipe's name)"),
    _run("phase", "phase", "all", "phase to run: 1, 2 or all", in_recipe=False),
    _run("description", "text", "", "what the recipe is for", env="", flag=""),
    _run("system", "name", REQUIRED, "kind of node, a key of `systems`", env="", flag=""),
    _run("model", "name", REQUIRED, "shape of the BERT, a key of `models`"),
    _run("vocabulary", "text", "any", "a key of `vocabularies`, a vocab.txt's sha256, or any", env="", flag=""),
    _run("nodes", "int", 1, "nodes to run on", env="", minimum=1),
    _run("tasks_per_node", "int", None, "processes a node (default: one a GPU)", env="", minimum=1),
    _run("gpus", "int", None, "GPUs used on each node; 0 trains on CPUs (default: the system's)"),
    _run("precision", "text", "fp16", "arithmetic of the forward and backward pass", choices=PRECISIONS),
    _run("loss_scale", "float", 0.0, "factor on the loss in fp16; 0: dynamic, from 2^20", env=""),
    _run(
        "loss_normalization",
        "text",
        "global",
        "divide by the masked tokens of the global batch, or by those of each micro-batch, as the seed did",
        env="",
        choices=("global", "seed"),
    ),
    _run("activation_checkpointing", "switch", False, "compute activations again in backward: less memory", env=""),
    _run(
        "gradient_compression",
        "text",
        "none",
        "number format in which gradients travel between ranks",
        env="",
        choices=("none", "fp16", "bf16"),
    ),
    _run("deterministic", "switch", False, "only GPU kernels that give the same bits each time; slower", env=""),
    _run("seed", "int", 42, "seed of weights, dropout, sample order and masks", maximum=2**32 - 1),
    _run(
        "masking",
        "text",
        "dynamic",
        "masks drawn anew each epoch, or as stored",
        choices=("dynamic", "static"),
    ),
    _run(
        "masked_share",
        "float",
        0.15,
        "share of the tokens that dynamic masking predicts",
        env="",
        minimum=0,
        maximum=0.5,
        above=True,
    ),
    _run(
        "masked_units",
        "text",
        "pieces",
        "what dynamic masking chooses: pieces, or whole words with all their pieces",
        env="",
        choices=("pieces", "words"),
    ),
    _run("num_workers", "int", 1, "background threads a rank that build batches"),
    _run(
        "loader",
        "text",
        "bertjobs",
        "who reads the shards; lddl needs the lddl package",
        env="",
        choices=("bertjobs", "lddl"),
    ),
    _run("unpad", "switch", True, "train on whole sequences without padding; not with loader lddl", env=""),
    _run(
        "attention",
        "text",
        "auto",
        "who computes attention where there is no padding; auto: the fastest that works",
        env="",
        choices=ATTENTIONS,
    ),
    _run("compile", "switch", True, "fuse what stands between matrix products, on GPUs, where a compiler is", env=""),
    _run(
        "on_bad_shard", "text", "stop", "what to do about a missing or altered shard", env="", choices=("stop", "skip")
    ),
    _run("local_copy", "path", "", "folder on each node to copy the shards to before training", env=""),
    _run("bin_size", "int", 64, "tokens that a length bin of the shards spans", minimum=1),
    _run("keep_checkpoints", "int", 3, "newest checkpoints of a phase that are kept", env="", minimum=1),
    _run("hang_timeout_s", "int", 900, "end a run in which no step ends for so many seconds; 0: never", env=""),
    *(
        _run(
            f"restarts_{cause}",
            "int",
            default,
            f"attempts of a job that may end by {cause.replace('_', ' ')} and be followed by another",
            env="",
            flag="",
        )
        for cause, default in RESTARTS.items()
    ),
    _run(
        "previous_phase",
        "text",
        "done",
        "start a phase from the one before once that is done, or from its latest checkpoint",
        choices=("done", "latest"),
    ),
    _run("steps_this_run", "int", 0, "stop after so many optimizer steps, to be continued; 0: no limit"),
    _run("data", "path", "data/prepared", "folder made by `bertjobs data prepare`", env="DATADIR"),
    _run("results", "path", "results", "folder that holds the runs"),
    _run("init_checkpoint", "path", "", "Hugging Face BERT folder to start phase 1 from"),
    _run("image", "path", "", "container image for pyxis: a .sqsh file or an enroot URI"),
    _run("mounts", "mounts", (), "container mounts, SRC:DST[:FLAGS], separated by commas"),
    Setting("name", "optimizer", "text", _LAMB.name, "optimizer", choices=OPTIMIZERS),
    Setting(
        "backend",
        "optimizer",
        "text",
        _LAMB.backend,
        "who computes the update: apex or our fused kernels on GPUs, plain torch; auto: the first that there is",
        choices=("auto", "apex", "fused", "torch"),
    ),
    Setting(
        "shard_states", "optimizer", "switch", _LAMB.shard_states, "each rank keeps its part of the moments (ZeRO-1)"
    ),
    Setting("weight_decay", "optimizer", "float", _LAMB.weight_decay, "decoupled weight decay"),
    Setting("beta1", "optimizer", "float", _LAMB.beta1, "decay of the first moment", maximum=1),
    Setting("beta2", "optimizer", "float", _LAMB.beta2, "decay of the second moment", maximum=1),
    Setting("epsilon", "optimizer", "float", _LAMB.epsilon, "added to the root of the second moment"),
    Setting("clip_norm", "optimizer", "float", _LAMB.clip_norm, "global L2 norm to clip gradients at", above=True),
    _phase("sequence_length", "int", "tokens in the longest sequence", minimum=8),
    _phase("max_predictions", "int", "masked tokens a sequence at most", minimum=1),
    _phase("steps", "int", "optimizer steps in the phase", minimum=1),
    _phase("lr", "float", "peak learning rate", env="LR", flag="--lr", above=True),
    _phase("warmup", "float", "share of the steps spent warming up, 0 to 1", maximum=1),
    _phase("global_batch", "int", "sequences an optimizer step over all ranks", minimum=1),
    _phase("micro_batch", "micro_batch", "most sequences in one forward/backward that fit the device", minimum=1),
    _phase(
        "rank_batch",
        "int",
        "sequences a rank an optimizer step; global batch = this x ranks",
        None,
        env="BATCHSIZE",
        flag="--batchsize",
        in_recipe=False,
        minimum=1,
    ),
    _phase(
        "gradient_steps",
        "int",
        "micro-batches an optimizer step; micro-batch = rank batch / this",
        None,
        env="GRADIENT_STEPS",
        flag="--gradient-steps",
        minimum=1,
    ),
    _phase(
        "optimizer_state",
        "text",
        "what a phase that starts from the one before does with its moments; the step count starts anew either way",
        "carry",
        choices=("carry", "reset"),
    ),
    _phase("checkpoint_every", "int", "optimizer steps between checkpoints", 200, minimum=1),
    _phase("validate_every", "int", "optimizer steps between validations; 0: only at the phase's end", 0),
)

RUN = {s.key: s for s in SETTINGS if s.section == "run"}
OPTIMIZER = {s.key: s for s in SETTINGS if s.section == "optimizer"}
PHASE = {s.key: s for s in SETTINGS if s.section == "phase"}

SYSTEM = {
    s.key: s
    for s in (
        Setting("gpu", "system", "text", "none", "the GPU's name"),
        Setting("gpus_per_node", "system", "int", 0, "GPUs in a node"),
        Setting("gpu_memory_gb", "system", "int", 0, "memory of one GPU in GB"),
        Setting("interconnect", "system", "text", "", "what links the nodes"),
        Setting("tasks_per_node", "system", "int", 1, "processes on a node without GPUs", minimum=1),
        Setting("scheduler", "system", "text", "slurm", "who starts jobs: Slurm, or nobody", choices=("slurm", "none")),
    )
}

_ACTIVATIONS = ("gelu", "gelu_new")

MODEL = {
    s.key: s
    for s in (
        Setting("hidden_size", "model", "int", REQUIRED, "width", minimum=1),
        Setting("num_hidden_layers", "model", "int", REQUIRED, "layers", minimum=1),
        Setting("num_attention_heads", "model", "int", REQUIRED, "attention heads", minimum=1),
        Setting("intermediate_size", "model", "int", REQUIRED, "width of the feed-forward part", minimum=1),
        Setting("vocab_size", "model", "int", 0, "tokens; 0: as many as the vocabulary holds"),
        Setting("max_position_embeddings", "model", "int", 512, "longest sequence, tokens", minimum=8),
        Setting("type_vocab_size", "model", "int", 2, "segment types", minimum=2),
        Setting("hidden_act", "model", "text", "gelu", "activation", choices=_ACTIVATIONS),
        Setting("hidden_dropout_prob", "model", "float", 0.1, "dropout", maximum=1),
        Setting("attention_probs_dropout_prob", "model", "float", 0.1, "dropout of attention", maximum=1),
        Setting("layer_norm_eps", "model", "float", 1e-12, "epsilon of the layer norm", above=True),
        Setting("initializer_range", "model", "float", 0.02, "standard deviation of fresh weights", above=True),
    )
}

VOCABULARY = {
    s.key: s
    for s in (
        Setting("sha256", "vocabulary", "text", REQUIRED, "sha256 of vocab.txt, 64 hex digits"),
        Setting("size", "vocabulary", "int", REQUIRED, "tokens in vocab.txt", minimum=1),
    )
}


def nearest_key(word: str, keys: Iterable[str]) -> str | None:
    """A hint for an unknown key: the setting with that environment name, else the nearest in spelling."""
    known = list(keys)
    for setting in SETTINGS:
        if setting.env and word.upper() == setting.env and setting.key in known:
            return f"did you mean {setting.key!r}?"
    return nearest(word, known)

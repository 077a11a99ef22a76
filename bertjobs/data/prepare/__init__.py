"""Corpus to shards, in stages that can be killed at any time: scan, tokenise, pairs, shards."""

from bertjobs.data.prepare.data_folder import Progress, prepare
from bertjobs.data.prepare.on_this_machine import ThisMachine
from bertjobs.data.prepare.settings import DEFAULTS, PHASES, PhaseShape, PrepareOptions, parse_phases

__all__ = ["DEFAULTS", "PHASES", "PhaseShape", "PrepareOptions", "Progress", "ThisMachine", "parse_phases", "prepare"]

"""The settings of a run by topic: each field declares one, as `bertjobs.recipe.setting` says."""

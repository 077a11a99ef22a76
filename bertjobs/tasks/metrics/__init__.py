"""The metrics of tasks: pure functions from what is true and what was predicted to numbers, and to words where a number
is undefined."""

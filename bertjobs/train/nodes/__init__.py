"""The nodes that a job was given: checked, measured, bound to."""

"""LAMB and AdamW, parameter groups, the schedule, loss scaling."""

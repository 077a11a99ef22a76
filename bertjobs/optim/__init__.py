"""LAMB, AdamW and Adam in torch, Triton and APEX; parameter groups, sharded states, the schedule, loss scaling."""

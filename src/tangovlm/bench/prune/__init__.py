"""`tangovlm bench prune` and `bench scale`: the time of pruning."""

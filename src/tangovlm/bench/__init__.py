"""How fast it is: time, memory and FLOPs of pruning and of a whole model, measured on this machine."""

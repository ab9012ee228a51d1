"""Benchmarks of speed: time, memory and FLOPs of pruning and of whole models, measured on this machine."""

"""Devices, memory, timing and operation counts."""

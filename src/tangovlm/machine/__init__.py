"""The machine: memory, devices, time and operations."""

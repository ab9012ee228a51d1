"""Evaluation: the benchmark `tangoworld`, plug-ins for public harnesses, and the tables of the paper."""

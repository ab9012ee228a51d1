"""The tables and figures of the paper: plan, run, collect, compare."""

"""The tables of the paper in the field's own harnesses: plan, run, collect, compare."""

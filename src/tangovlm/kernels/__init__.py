"""Hot operations: one folder each, with a plain reference beside the fast variants."""

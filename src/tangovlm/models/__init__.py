"""One file per model family; the parts that families are composed of in `common/`."""

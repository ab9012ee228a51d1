"""One file per model family; shared parts in `common/`."""

"""Parts of families whose encoder receives the patches of all videos as one sequence, see `patch_sequence`."""

"""Parts of families whose frames and tiles have one size, such as LLaVA-OneVision."""

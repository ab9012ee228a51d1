"""The synthetic world: clips, frames, and questions about them."""

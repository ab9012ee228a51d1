"""Step 2 of a call, see `session.attach`: from pixels to tagged features."""

"""The field's own evaluation harnesses: one core that answers requests, and an adapter for each harness."""

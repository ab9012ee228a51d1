"""`tangovlm bench ttft`: the time to the first token."""

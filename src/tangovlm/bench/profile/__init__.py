"""`tangovlm bench profile`: the stages of one question."""

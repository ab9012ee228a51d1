"""One file per pruning method; shared parts in `common/`, methods inside the language model in `in_llm/`."""

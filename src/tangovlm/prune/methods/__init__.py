"""One file a method. Each registers itself; `tangovlm.methods()` lists them."""

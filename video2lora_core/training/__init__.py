"""Training: the embedded VLM from nothing, then a hypernetwork over any frozen VLM."""

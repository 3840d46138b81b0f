"""The encoder, the packed decoder and the model that joins them."""

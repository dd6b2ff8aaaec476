"""A GPU's files: NF4 or int8 matrices, as bitsandbytes reads them."""

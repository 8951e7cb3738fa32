"""The model cache: read, planned and changed entry by entry, and never anything in it that is not huggingface_hub's."""

"""Read, plan and change the model cache entry by entry; only files of huggingface_hub are ever touched."""

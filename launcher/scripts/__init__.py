"""Read from an app's own files how it is started, without running them."""

"""What an app's own files tell about how it is started; they are read, never run."""

"""From the settings to the app: its command, its environment, the locks that say it runs, and the exec."""

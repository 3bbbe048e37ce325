"""Pictures and masks: read, written, resized and laid over one another. No network is known here."""

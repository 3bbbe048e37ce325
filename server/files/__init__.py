"""Files that are sent to the server: kept by content, known by their bytes, found for documents by name."""

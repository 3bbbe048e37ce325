"""The server: jobs over HTTP, kept whatever dies. It never imports torch."""

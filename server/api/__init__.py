"""The API over HTTP: routes, what may come in, what goes out, and who may ask."""

"""The service: HTTP routes, a page, and the batches that all requests share."""
